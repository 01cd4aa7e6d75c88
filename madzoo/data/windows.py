"""Pure windowing of one table: the literature's borders, train-only scaling, and every window, none dropped.

Axes: N rows, B windows, L context, H horizon, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError, DataError

__all__ = ["ETT_HOURLY", "ETT_QUARTER_HOURLY", "SPLITS", "Borders", "Standardizer", "Windows", "split_windows"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Borders:
    """Cuts a table in time: the first ``train`` rows, then ``val``, then ``test``; what follows is unused.

    Attributes:
        train, val, test: numbers of rows.
    """

    train: int
    val: int
    test: int

    @classmethod
    def from_ratio(cls, num_rows: int, *, train: float = 0.7, test: float = 0.2) -> "Borders":
        """Returns the literature's borders for a table without its own: 70 %, the rest, and the last 20 %."""
        first, last = int(num_rows * train), int(num_rows * test)
        return cls(train=first, val=num_rows - first - last, test=last)

    def rows(self, split: str) -> tuple[int, int]:
        """Returns the first row of a split and the row after its last.

        Raises:
            ConfigError: when the split is none of :data:`SPLITS`.
        """
        if split not in SPLITS:
            raise ConfigError(f"there is no split {split!r}.", asked=split, looked=", ".join(SPLITS))
        edges = (0, self.train, self.train + self.val, self.train + self.val + self.test)
        index = SPLITS.index(split)
        return edges[index], edges[index + 1]


ETT_HOURLY = Borders(train=8640, val=2880, test=2880)
ETT_QUARTER_HOURLY = Borders(train=34560, val=11520, test=11520)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standardizer:
    """Z-scores the channels of a table.

    Attributes:
        mean, scale: [C]; scale is the population standard deviation, or the error that :meth:`fit` is told to take; 1
            for a constant channel.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, values: Tensor, *, seasonality: int | None = None) -> "Standardizer":
        """Takes the statistics of rows [N, C], missing values left out.

        With a seasonality the scale is the mean absolute change from one season to the next.
        """
        mean = values.nanmean(0)
        if seasonality is None:
            scale = (values - mean).square().nanmean(0).sqrt()
        else:
            scale = (values[seasonality:] - values[:-seasonality]).abs().nanmean(0)
        return cls(mean=mean, scale=torch.where(scale > 0, scale, 1))

    def apply(self, values: Tensor) -> Tensor:
        """Returns z-scores [..., C]."""
        return (values - self.mean) / self.scale

    def restore(self, scores: Tensor) -> Tensor:
        """Returns values [..., C] in their own units."""
        return scores * self.scale + self.mean


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Indexes every (past, future) pair of a table whose future lies inside rows ``start`` to ``stop``.

    ``windows[i]`` is ``(past [L, C], future [H, C])``; ``windows[index]`` with a tensor or list of B indices is
    ``([B, L, C], [B, H, C])``. The past may begin before ``start``, as in the literature.

    Attributes:
        values: the table [N, C].
        context_length, prediction_length: L and H.
        start, stop: the rows of the split.

    Raises:
        DataError: when the rows are too few for a single window, or those before ``start`` for its past.

    Example:
        >>> table = torch.arange(20.0)[:, None]
        >>> windows = Windows(values=table, context_length=4, prediction_length=2, start=10, stop=20)
        >>> len(windows), windows[0][0][:, 0].tolist(), windows[-1][1][:, 0].tolist()
        (9, [6.0, 7.0, 8.0, 9.0], [18.0, 19.0])
    """

    values: Tensor
    context_length: int
    prediction_length: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        lengths = f"L={self.context_length}, H={self.prediction_length}"
        asked = f"rows {self.start} to {self.stop} of {len(self.values)}, {lengths}"
        if self.stop > len(self.values):
            raise DataError("the table ends before the split does.", asked=asked)
        if 0 < self.start < self.context_length:
            raise DataError("the context reaches back before the first row.", asked=asked)
        if len(self) < 1:
            raise DataError("the split is too short for one window.", asked=asked)

    def __len__(self) -> int:
        return self.stop - self.prediction_length - self._first + 1

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Returns the windows at an index or at many.

        Raises:
            IndexError: when an index lies outside.
        """
        where = torch.as_tensor(index)
        where = torch.where(where < 0, where + len(self), where)
        if bool(((where < 0) | (where >= len(self))).any()):
            raise IndexError(f"window {index} of {len(self)}")
        steps = torch.arange(-self.context_length, self.prediction_length) + self._first
        rows = self.values[where.unsqueeze(-1) + steps]
        return rows[..., : self.context_length, :], rows[..., self.context_length :, :]

    @property
    def _first(self) -> int:
        return max(self.start, self.context_length)


def split_windows(
    values: Tensor,
    borders: Borders,
    split: str,
    *,
    context_length: int,
    prediction_length: int,
    seasonality: int | None = None,
) -> Windows:
    """Returns the z-scored windows of one split, in float32, scaled by the rows of ``train`` alone.

    With a seasonality they are in units of the seasonal error instead, see :meth:`Standardizer.fit`.

    Shapes: values [N, C], best in float64.

    Raises:
        ConfigError: on an unknown split.
        DataError: when the table is too short.

    Example:
        >>> table = torch.randn(14400, 7, dtype=torch.float64)
        >>> len(split_windows(table, ETT_HOURLY, "test", context_length=512, prediction_length=96))
        2785
    """
    start, stop = borders.rows(split)
    scores = Standardizer.fit(values[: borders.train], seasonality=seasonality).apply(values)
    return Windows(
        values=scores.float(),
        context_length=context_length,
        prediction_length=prediction_length,
        start=start,
        stop=stop,
    )
