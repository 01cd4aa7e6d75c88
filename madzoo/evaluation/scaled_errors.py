"""Errors in units of each series' own seasonal error, and relative to its size: the metrics of fev-bench and GIFT-Eval.

Axes: W windows, N items, H horizon, C targets of an item, Q quantiles, L past.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from madzoo.errors import DataError

__all__ = ["coverage", "gift_eval_errors", "scaled_errors", "seasonal_error"]

EPSILON = 1.0  # the least mean size of the targets that WAPE and WQL divide by, as fev-bench sets it


def seasonal_error(past_LC: Tensor, seasonality: int) -> Tensor:
    """Returns the mean absolute difference between values a season apart, [C]; NaN where no pair was observed.

    Source: the denominator of the mean absolute scaled error, Hyndman and Koehler (2006), Another look at measures of
    forecast accuracy.

    Example:
        >>> seasonal_error(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), 2).tolist()
        [4.5]
    """
    past = past_LC.double()
    if len(past) <= seasonality:
        return past.new_full(past.shape[1:], torch.nan)
    return (past[seasonality:] - past[:-seasonality]).abs().nanmean(0)


def scaled_errors(
    y_WNHC: Tensor, quantiles_WNHCQ: Tensor, scale_WNC: Tensor, *, levels: Sequence[float]
) -> dict[str, float]:
    """Returns MASE, sMAPE, WAPE, SQL and WQL as fev-bench defines them.

    The point forecast is the median. Each metric is an average over items and horizon, then over targets, then over
    windows. Missing targets do not count; nor, in MASE and SQL, do items without a seasonal error above 0.

    - mase: |y - q50| / scale.
    - sql: mean over levels of 2 |(y - q) (1[y <= q] - level)| / scale.
    - wape: sum of |y - q50| / sum of |y|, per target and window.
    - wql: mean over levels of sum of 2 |(y - q) (1[y <= q] - level)| / sum of |y|, per target and window.
    - smape: 2 |y - q50| / (|y| + |q50|), from 0 to 2.

    Raises:
        DataError: when a forecast is not finite, or no target was observed.

    Source: src/fev/metrics.py and benchmarks/fev_bench/tasks.yaml of github.com/autogluon/fev @ 1bc95fd (epsilon 1 in
    WAPE and WQL).
    """
    y, q = _checked(y_WNHC, quantiles_WNHCQ)
    point = q[..., _median(levels)]
    error, size = (y - point).abs(), y.abs()
    loss = _quantile_loss(y, q, levels)
    scale = scale_WNC.double().unsqueeze(2)
    sizes = size.nanmean((1, 2)).clamp(min=EPSILON)
    metrics = {
        "sql": _finite_mean(loss / scale.unsqueeze(-1)),
        "mase": _finite_mean(error / scale),
        "wape": error.nanmean((1, 2)) / sizes,
        "wql": loss.nanmean((1, 2)) / sizes.unsqueeze(-1),
        "smape": _finite_mean(2 * error / (size + point.abs())),
    }
    return {name: float(value.mean()) for name, value in metrics.items()}


def gift_eval_errors(
    y_WNHC: Tensor, quantiles_WNHCQ: Tensor, mean_WNHC: Tensor, scale_WNC: Tensor, *, levels: Sequence[float]
) -> dict[str, float]:
    """Returns the errors of GIFT-Eval's table under its column names; every average is over all targets at once.

    MSIS is left out: it needs the 2.5 % and 97.5 % quantiles, which the nine levels do not give.

    Raises:
        DataError: as :func:`scaled_errors`.

    Source: notebooks/naive.ipynb of github.com/SalesforceAIResearch/gift-eval @ 4fd98a9, with gluonts.ev.metrics.
    """
    y, q = _checked(y_WNHC, quantiles_WNHCQ)
    median, mean = q[..., _median(levels)], mean_WNHC.double()
    error, size = (y - median).abs(), y.abs()
    mse = float((y - mean).square().nanmean())
    loss = _quantile_loss(y, q, levels).nansum((0, 1, 2, 3)) / size.nansum()
    return {
        "MSE[mean]": mse,
        "MSE[0.5]": float(error.square().nanmean()),
        "MAE[0.5]": float(error.nanmean()),
        "MASE[0.5]": float(_finite(error / scale_WNC.double().unsqueeze(2)).nanmean()),
        "MAPE[0.5]": float(_finite(error / size).nanmean()),
        "sMAPE[0.5]": float(_finite(2 * error / (size + median.abs())).nanmean()),
        "RMSE[mean]": mse**0.5,
        "NRMSE[mean]": mse**0.5 / float(size.nanmean()),
        "ND[0.5]": float(error.nansum() / size.nansum()),
        "mean_weighted_sum_quantile_loss": float(loss.mean()),
    }


def coverage(y: Tensor, low: Tensor, high: Tensor) -> float:
    """Returns the fraction of observed targets inside [low, high]; of an 80 % interval it should be 0.8."""
    observed = y.isfinite()
    return float(((y >= low) & (y <= high))[observed].double().mean())


def _checked(y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    if not q.isfinite().all():
        raise DataError("the model returned NaN or inf.", asked="finite quantiles")
    if not y.isfinite().any():
        raise DataError("the windows hold no observed target.")
    return y.double(), q.double()


def _median(levels: Sequence[float]) -> int:
    return list(levels).index(0.5)


def _quantile_loss(y: Tensor, q: Tensor, levels: Sequence[float]) -> Tensor:
    y, level = y.unsqueeze(-1), torch.tensor(levels, dtype=q.dtype)
    return 2 * ((y - q) * ((y <= q).to(q.dtype) - level)).abs()


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, torch.nan)


def _finite_mean(x: Tensor) -> Tensor:
    """Averages over items and horizon, axes 1 and 2, what is finite."""
    return _finite(x).nanmean((1, 2))
