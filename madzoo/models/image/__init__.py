"""Image families."""

from madzoo.models.image import vim, vmamba, weft

__all__ = ["vim", "vmamba", "weft"]
