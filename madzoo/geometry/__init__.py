"""Geometry of a trained network: (module, batch) in, frozen record out."""

from madzoo.geometry.rank import LocalDimension, local_dimension
from madzoo.geometry.report import GeometryReport, report

__all__ = ["GeometryReport", "LocalDimension", "local_dimension", "report"]
