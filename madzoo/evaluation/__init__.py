"""Evaluation: (module, benchmark) in, result rows out."""
