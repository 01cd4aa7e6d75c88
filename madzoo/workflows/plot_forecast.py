"""The picture of a forecast: the recent past, the median, and a fan of quantiles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from madzoo.data.series import Series

__all__ = ["plot_forecast"]

MOST_SERIES = 9
PAST_PER_FUTURE = 4
SHORTEST_PAST = 60
PAST_COLOR, FUTURE_COLOR = "#30343b", "#1b6ca8"


def plot_forecast(
    series: Sequence[Series], table: pd.DataFrame, path: str | Path, *, quantile_levels: Sequence[float]
) -> None:
    """Draws the first nine series and their forecasts to a PNG file.

    Args:
        series: what was forecast.
        table: the forecasts, in the same order, an equal number of rows each; see ``madzoo.forecast``.
        path: of the PNG file.
        quantile_levels: of the table; symmetric pairs become the bands of the fan.

    Raises:
        OSError: when the file cannot be written.
    """
    shown = series[:MOST_SERIES]
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 4 else 3
    rows = -(-len(shown) // columns)
    figure = Figure(
        figsize=(10 if columns == 1 else 5.5 * columns, 4.2 if rows == 1 else 3 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    horizon = len(table) // len(series)
    for position, (ax, one) in enumerate(zip(axes, shown, strict=False)):
        _draw(ax, one, table.iloc[position * horizon : (position + 1) * horizon], quantile_levels)
    for ax in list(axes)[len(shown) :]:
        ax.remove()
    if len(series) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(series)} series")
    figure.savefig(path, format="png", dpi=110)


def _draw(ax: Axes, one: Series, rows: pd.DataFrame, levels: Sequence[float]) -> None:
    past = max(SHORTEST_PAST, PAST_PER_FUTURE * len(rows))
    ahead = _plain(one.future(len(rows)))
    ax.plot(_plain(one.stamps[-past:]), one.values[-past:], color=PAST_COLOR, linewidth=1, label="past")
    for low, high in _pairs(levels):
        label = f"{high - low:.0%} interval" if low == min(levels) else None
        band = (rows[str(low)].to_numpy(), rows[str(high)].to_numpy())
        ax.fill_between(ahead, *band, color=FUTURE_COLOR, alpha=0.16, linewidth=0, label=label)
    ax.plot(ahead, rows["predictions"].to_numpy(), color=FUTURE_COLOR, linewidth=1.5, label="median")
    ax.set_title(one.target_name if one.item_id == "0" else f"{one.item_id} {one.target_name}", fontsize=10)
    ax.tick_params(labelsize=8)
    ax.tick_params(axis="x", rotation=20)
    ax.grid(alpha=0.2)
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _pairs(levels: Sequence[float]) -> list[tuple[float, float]]:
    """The levels that lie symmetric about the median, outermost first."""
    known = sorted(float(level) for level in levels)
    return [(a, b) for a, b in zip(known, reversed(known), strict=True) if a < b and abs(a + b - 1) < 1e-9]


def _plain(stamps: pd.Index) -> np.ndarray:
    """Time stamps as matplotlib takes them: naive dates in their own zone, or integers."""
    if isinstance(stamps, pd.DatetimeIndex) and stamps.tz is not None:
        stamps = stamps.tz_localize(None)
    return stamps.to_numpy()
