"""Models on disk and in other formats."""
