"""The engine for the CPU: kernels compiled by Numba."""
