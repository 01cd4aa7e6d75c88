"""Geometry of a trained network: (module, batch) in, frozen record out."""
