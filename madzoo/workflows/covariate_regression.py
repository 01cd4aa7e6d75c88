"""Known-future covariates for any forecaster: what they explain linearly is taken out, and put back for the future.

Axes: L context, H horizon, K covariates.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["CovariateFit", "fit_covariates"]

STRENGTHS = (1e-4, 1e-2, 1.0, 1e2, 1e4)


class CovariateFit(NamedTuple):
    """Holds the share of a series that its covariates explain.

    Attributes:
        past: [L], to subtract from the context; 0 where a covariate is missing.
        future: [H], to add to every quantile of the forecast.
    """

    past: np.ndarray
    future: np.ndarray


def fit_covariates(values: np.ndarray, past: np.ndarray, future: np.ndarray) -> CovariateFit:
    """Fits a ridge regression of a series on its covariates, over the steps where all are observed.

    Columns are standardised; the strength of the ridge is the one of :data:`STRENGTHS` with the least leave-one-out
    error, in closed form, and no regression at all where that is not less than the error of the mean. A covariate
    that never changed in the context explains nothing. The spread of the forecast is that of what is left; the
    uncertainty of the coefficients is not added.

    Shapes: values [L] (NaN = missing), past [L, K], future [H, K].

    Source: Hoerl and Kennard 1970; leave-one-out errors as in Golub, Heath and Wahba 1979, equation 1.3.

    Cost: O(L K min(L, K)).
    """
    nothing = CovariateFit(np.zeros(len(values)), np.zeros(len(future)))
    known = np.isfinite(values) & np.isfinite(past).all(1)
    if known.sum() < 3:
        return nothing
    centre, spread = past[known].mean(0), past[known].std(0)
    # What varies by rounding alone is constant.
    spread = np.where(spread > 1e-9 * np.abs(centre), spread, np.inf)
    level = values[known].mean()
    size = np.abs(values[known] - level).max()
    if size == 0 or not np.isfinite(spread).any():
        return nothing
    target = (values[known] - level) / size
    slopes = _ridge((past[known] - centre) / spread, target)
    if slopes is None:
        return nothing
    explained_past = np.where(np.isfinite(past).all(1), ((past - centre) / spread) @ slopes, 0.0)
    return CovariateFit(size * np.nan_to_num(explained_past), size * (((future - centre) / spread) @ slopes))


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Returns the coefficients with the least leave-one-out error; None where the mean alone does as well."""
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    count = len(y)
    best, slopes = np.mean((y * count / (count - 1)) ** 2), None
    for strength in STRENGTHS:
        kept = sizes**2 / (sizes**2 + strength)
        leverage = (left**2 * kept).sum(1) + 1 / count  # the mean is fitted too
        if leverage.max() > 1 - 1e-9:
            continue
        error = np.mean(((y - left @ (kept * (left.T @ y))) / (1 - leverage)) ** 2)
        if error < best:
            best, slopes = error, right.T @ (sizes / (sizes**2 + strength) * (left.T @ y))
    return slopes
