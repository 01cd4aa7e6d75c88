"""Forecasting families."""

from madzoo.models.series import patch_s4d

__all__ = ["patch_s4d"]
