"""Forecasting families."""

from madzoo.models.series import dlinear, itransformer, patch_mamba, patch_s4d, patchtst, rlinear, seasonal_naive

__all__ = ["dlinear", "itransformer", "patch_mamba", "patch_s4d", "patchtst", "rlinear", "seasonal_naive"]
