"""Cuts series into tasks: resampling to means of whole days or weeks, and rolling windows at the end.

Axes: L rows, C channels, H horizon.
"""

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from madzoo.errors import ConfigError, DataError

__all__ = ["mean_per", "rolling_cuts"]

PERIODS = ("D", "W")


def mean_per(table: pd.DataFrame, freq: str) -> pd.DataFrame:
    """Returns the means of an hourly table's whole days or weeks; the first and the last period are left out.

    A table begins and ends inside those two; fev-bench leaves them out, whole or not.

    Args:
        table: its first column holds the hours, the others the channels.
        freq: ``"D"``, or ``"W"`` for weeks from Monday to Sunday.

    Raises:
        ConfigError: when freq is neither.
        DataError: when the first column holds no times.

    Source: the tasks ETT_1D and ETT_1W of fev-bench; this recipe gives their published seasonal naive scores.
    """
    if freq not in PERIODS:
        raise ConfigError(f"there is no mean per {freq!r}.", asked=freq, looked=", ".join(PERIODS))
    stamps = table.iloc[:, 0]
    if not pd.api.types.is_datetime64_any_dtype(stamps):
        raise DataError("the first column of a table to resample holds times.", asked=stamps.dtype)
    means = table.set_index(stamps.name).resample(freq).mean()
    return means.iloc[1:-1].reset_index()


def rolling_cuts(
    items: Sequence[Tensor], *, horizon: int, num_windows: int
) -> tuple[tuple[tuple[Tensor, Tensor], ...], ...]:
    """Returns, per window, every item's (past [L, C], future [H, C]); the windows are the last ones and do not overlap.

    Window k of K ends (K - 1 - k) H rows before the end; its past is everything before it.

    Raises:
        DataError: when an item is too short for one row of past before the first window.

    Example:
        >>> import torch
        >>> cuts = rolling_cuts([torch.arange(7.0)[:, None]], horizon=2, num_windows=2)
        >>> [(past[:, 0].tolist(), future[:, 0].tolist()) for (past, future), in cuts]
        [([0.0, 1.0, 2.0], [3.0, 4.0]), ([0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 6.0])]
    """
    shortest = min(map(len, items))
    if shortest <= horizon * num_windows:
        asked = f"{num_windows} windows of {horizon} rows from {shortest}"
        raise DataError("a series is too short for its windows.", asked=asked)
    cuts = []
    for behind in range(num_windows, 0, -1):
        ends = [len(item) - behind * horizon for item in items]
        cuts.append(tuple((x[:end], x[end : end + horizon]) for x, end in zip(items, ends, strict=True)))
    return tuple(cuts)
