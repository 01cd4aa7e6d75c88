"""Compiled kernels, one for every kind of machine: each does what a readable operator beside this package does."""
