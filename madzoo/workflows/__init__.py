"""Workflows: the only room that composes the others; one function per command."""
