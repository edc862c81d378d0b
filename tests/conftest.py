import pytest

from rheobase import cli


@pytest.fixture
def fails(capsys):
    """Runs the command on a mistake of the user's: what it says on stderr."""

    def run(*words):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return run
