"""Checkpoint folders: paths, tensors and JSON, never a module."""
