"""Image families."""

from madzoo.models.image import weft

__all__ = ["weft"]
