"""Forecasting families."""

from madzoo.models.series import (
    bi_mamba_plus,
    dlinear,
    flowstate,
    itransformer,
    linoss,
    longconv_delta,
    patch_mamba,
    patch_s4d,
    patchtst,
    rlinear,
    s_mamba,
    season_patch,
    season_s4d,
    seasonal_naive,
    timemachine,
)

__all__ = [
    "bi_mamba_plus",
    "dlinear",
    "flowstate",
    "itransformer",
    "linoss",
    "longconv_delta",
    "patch_mamba",
    "patch_s4d",
    "patchtst",
    "rlinear",
    "s_mamba",
    "season_patch",
    "season_s4d",
    "seasonal_naive",
    "timemachine",
]
