"""One command for whoever has a GPU: is it right there, and how fast: `python -m benchmarks.gpu`."""
