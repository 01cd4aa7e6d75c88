"""Forecasting families."""

from madzoo.models.series import patch_mamba, patch_s4d

__all__ = ["patch_mamba", "patch_s4d"]
