"""Model families, one file each; importing this package registers every architecture."""

from madzoo.models import image, series

__all__ = ["image", "series"]
