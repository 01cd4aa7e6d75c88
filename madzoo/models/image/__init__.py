"""Image families."""

from madzoo.models.image import mambavision, plainmamba, s4, vim, vmamba, weft

__all__ = ["mambavision", "plainmamba", "s4", "vim", "vmamba", "weft"]
