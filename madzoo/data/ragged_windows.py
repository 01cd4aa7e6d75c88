"""Windows of series of different lengths, in units of their own past: what a forecaster is fine-tuned on.

Axes: B windows, L context, H horizon, C channels.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.errors import DataError
from madzoo.layers.series_scaler import SeriesScaler

__all__ = ["RaggedSteps", "RaggedWindows", "split_ragged"]

FURTHEST = 20.0  # deviations; a rare explosion further out would own the gradient


class RaggedWindows:
    """Indexes every (past, future) pair of some series whose future lies in the rows from ``start`` on, up to ``stop``.

    A past is as long as the context; what a series has not is missing. Both are measured in deviations of the past
    from its mean, channel by channel, so that every series counts alike.

    Args:
        series: [L, C] each, NaN = missing.
        context_length, prediction_length: L and H.
        starts, stops: of each series, the first row that may be forecast, at least 1, and the row after the last.

    Raises:
        DataError: when there is no window.
    """

    def __init__(
        self, series: Sequence[Tensor], *, context_length: int, prediction_length: int, starts: Sequence[int],
        stops: Sequence[int],
    ) -> None:  # fmt: skip
        self.series, self.starts, self.stops = series, starts, stops
        self.context_length, self.prediction_length = context_length, prediction_length
        counts = [max(0, stop - prediction_length - start + 1) for start, stop in zip(starts, stops, strict=True)]
        self.ends = np.cumsum(counts)
        self.scaler = SeriesScaler()
        if not len(self):
            raise DataError(
                "no series is long enough for one window.",
                asked=f"prediction_length={prediction_length}",
                looked=f"{len(series)} series of at most {max(map(len, series), default=0)} steps",
                todo="longer series, or a shorter prediction_length",
            )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns (past [B, L, C], future [B, H, C]) in float32."""
        pairs = [self._pair(int(i)) for i in index]
        past, future = (torch.stack(part).double() for part in zip(*pairs, strict=True))
        scaled = self.scaler(past.mT.flatten(0, 1))
        values = scaled.values.masked_fill(~scaled.observed, torch.nan).unflatten(0, (len(past), -1)).mT
        location, scale = (x.view(len(past), 1, -1) for x in (scaled.location, scaled.scale))
        # The future of a constant past has no unit but its own.
        ahead = (future - location) / torch.where(scale > 0, scale, 1)
        return values.float(), ahead.clamp(-FURTHEST, FURTHEST).float()

    def has_targets(self) -> bool:
        """Returns whether any future holds an observed value."""
        spans = zip(self.series, self.starts, self.stops, strict=True)
        return any(
            bool(one[start:stop].isfinite().any())
            for one, start, stop in spans
            if stop - start >= self.prediction_length
        )

    def batches(self, most: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields at most so many windows, evenly spread over all."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int))
        for start in range(0, len(chosen), batch_size):
            yield self[chosen[start : start + batch_size]]

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        place = int(np.searchsorted(self.ends, index, side="right"))
        now = self.starts[place] + index - (int(self.ends[place - 1]) if place else 0)
        past = self.series[place][max(0, now - self.context_length) : now]
        whole = pad(past, (0, 0, self.context_length - len(past), 0), value=torch.nan)
        return whole, self.series[place][now : now + self.prediction_length]


class RaggedSteps:
    """Gives the training batch of any step: windows drawn with replacement, a function of (seed, step).

    Args:
        windows: to draw from.
        batch_size: windows in a batch.
        steps_per_epoch: how many steps count as an epoch.
        seed: of the draw.
    """

    def __init__(self, windows: RaggedWindows, *, batch_size: int, steps_per_epoch: int, seed: int) -> None:
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.steps_per_epoch = steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns (past [B, L, C], future [B, H, C])."""
        draw = np.random.default_rng([self.seed, 1, step])
        return self.windows[draw.integers(len(self.windows), size=self.batch_size)]


def split_ragged(
    series: Sequence[Tensor], *, context_length: int, prediction_length: int, val_fraction: float
) -> tuple[RaggedWindows, RaggedWindows]:
    """Returns training and validation windows: the last part of every series is validated on, never trained on.

    A series too short for a window of each is trained on alone.

    Raises:
        DataError: when there is no window to train or none to validate on.
    """
    cuts = [len(one) - max(prediction_length, round(val_fraction * len(one))) for one in series]
    short = [cut < prediction_length + 1 for cut in cuts]
    stops = [len(one) if alone else cut for one, cut, alone in zip(series, cuts, short, strict=True)]
    first = [min(context_length, max(1, stop - prediction_length)) for stop in stops]
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    train = RaggedWindows(series, starts=first, stops=stops, **lengths)
    ends = [0 if alone else len(one) for one, alone in zip(series, short, strict=True)]
    return train, RaggedWindows(series, starts=[max(1, cut) for cut in cuts], stops=ends, **lengths)
