"""Training pairs from recorded hourly series: windows of them, mixed with one another, on the grid of every frequency.

A recording is met as hours or as the means of its days. Windows are standardised, added up in random proportions
(TSMixup, arXiv 2403.07815, section 4.1), turned upside down half of the time, and given gaps, units and layout like the
synthetic series of :mod:`madzoo.data.synthetic_frequencies`, beside which they are trained on.

Axes: N series, T steps, K windows to mix.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from madzoo.data.synthetic import Draw, standard
from madzoo.data.synthetic_frequencies import FINE, SLOTS, Kind, lay_out_pairs
from madzoo.errors import DataError
from madzoo.layers.season_grid import SeasonGrid

__all__ = ["Recordings"]

MIXED = 3  # windows in a series at most
HOURS = Kind(0.8, 24, 168, 1008, 192, FINE)
DAYS = Kind(0.2, 7, 365.25, 252, 56, FINE)


class Recordings:
    """Holds complete hourly series, and draws pairs of past and future from them.

    Args:
        series: one array each, without a missing value.

    Raises:
        DataError: when a series has a missing value, or none is long enough for a window of hours and one of days.
    """

    def __init__(self, series: Sequence[np.ndarray]) -> None:
        if any(not np.isfinite(one).all() for one in series):
            raise DataError("a recording has a missing value.", todo="leave it out, or fill it")
        self.hours = [torch.from_numpy(np.asarray(one, dtype="float32").copy()) for one in series]
        self.days = [one[: len(one) // 24 * 24].unflatten(0, (-1, 24)).mean(1) for one in self.hours]

    def windows(self, count: int, *, context_length: int, prediction_length: int, seed: int) -> tuple[Tensor, Tensor]:
        """Returns training pairs, hours and means of days in fixed proportions; a pure function of the seed.

        Shapes: -> past [count, L, 1], future [count, H, 1], float32, in steps of the grid.
        """
        hourly = round(HOURS.share * count)
        parts = ((HOURS, self.hours, hourly), (DAYS, self.days, count - hourly))
        lengths = {"past": context_length, "future": prediction_length}
        pairs = [
            _pairs(kind, series, Draw(size, seed + place), lengths)
            for place, (kind, series, size) in enumerate(parts)
            if size
        ]
        pasts, futures = (torch.cat(part).unsqueeze(-1) for part in zip(*pairs, strict=True))
        return pasts, futures


def _pairs(kind: Kind, series: Sequence[Tensor], draw: Draw, lengths: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    grid = SeasonGrid(slots=SLOTS, seasonality=kind.seasonality, **lengths)
    length = min(kind.past, grid.context_length) + grid.prediction_length
    return lay_out_pairs(_mixtures(series, draw, length), kind, draw, grid)


def _mixtures(series: Sequence[Tensor], draw: Draw, length: int) -> Tensor:
    """Sums of up to three standardised windows [N, T], of random sizes and either way up."""
    series = [one for one in series if len(one) >= length]
    if not series:
        raise DataError("no recording is long enough for a window.", asked=f"{length} steps")
    lengths = torch.tensor([len(one) for one in series])
    starts = lengths.cumsum(0) - lengths
    # Long recordings more often, but not in proportion: ten years of one are no ten houses.
    chosen = torch.multinomial(lengths.sqrt().expand(draw.count, -1), MIXED, replacement=True, generator=draw.generator)
    first = (draw.uniform(0, 1, MIXED) * (lengths[chosen] - length + 1)).long()
    steps = (starts[chosen] + first).unsqueeze(-1) + torch.arange(length)
    windows = standard(torch.cat(list(series))[steps].flatten(0, 1)).unflatten(0, (-1, MIXED))
    size = draw.uniform(0.1, 1.1, MIXED)
    size = size * (torch.arange(MIXED) <= (draw.uniform(0, 1) * MIXED).floor())
    return torch.where(draw.chance(0.5), -1, 1) * standard((size.unsqueeze(-1) * windows).sum(1))
