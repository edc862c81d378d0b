"""`python -m rheobase` is the command `rheobase`."""

from rheobase.cli import main

if __name__ == "__main__":
    main()
