"""The health of the signal: what goes up, and what comes down."""
