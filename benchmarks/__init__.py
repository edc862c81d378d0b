"""Side-by-side timings: `python -m benchmarks`. Not a part of the library."""
