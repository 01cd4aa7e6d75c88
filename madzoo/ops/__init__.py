"""Operators: tensor in, tensor out. The reference stands beside every fast path; one dispatcher chooses."""
