"""Image families."""

from madzoo.models.image import vim, weft

__all__ = ["vim", "weft"]
