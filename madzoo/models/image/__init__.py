"""Image families."""

from madzoo.models.image import mambavision, vim, vmamba, weft

__all__ = ["mambavision", "vim", "vmamba", "weft"]
