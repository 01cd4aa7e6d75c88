"""Image families."""

from madzoo.models.image import mambavision, plainmamba, s4, s4nd, s4nd_convnext, vim, vmamba, weft

__all__ = ["mambavision", "plainmamba", "s4", "s4nd", "s4nd_convnext", "vim", "vmamba", "weft"]
