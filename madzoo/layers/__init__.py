"""Layers: small modules built on the operators; parameter names are the published ones."""
