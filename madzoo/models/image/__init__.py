"""Image families."""

from madzoo.models.image import mambavision, plainmamba, vim, vmamba, weft

__all__ = ["mambavision", "plainmamba", "vim", "vmamba", "weft"]
