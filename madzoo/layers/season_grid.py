"""A time grid on which every season has the same number of steps, so that one network serves every sampling rate.

Axes: B samples, L steps of the series, G steps of the grid, C channels.
"""

import torch
from torch import Tensor

from madzoo.errors import ConfigError

__all__ = ["SeasonGrid"]

SEASONLESS = 4  # grid steps to a step of a series without a season; their pattern of gaps says that there is none


class SeasonGrid:
    """Lays out the steps of a series of seasonality m so that a season fills ``slots`` steps of the grid.

    A step of the series is ``slots / m`` steps of the grid, rounded to the nearest; what lies between is missing. A
    series without a season (m = 1) takes every fourth step. One whose season is longer than the slots takes every
    step, and its season is whatever the network finds.

    Args:
        slots: steps of the grid in a season.
        past, future: steps of the grid before and after the present.
        seasonality: steps of the series in a season, m.

    Attributes:
        past, future: as above.
        context_length, prediction_length: steps of the series that the grid has room for, before and after.
        is_identity: whether series and grid are the same.

    Raises:
        ConfigError: when seasonality is below 1.

    Source: the idea of one scale for every sampling rate is FlowState's (arXiv 2508.05287, section 3); there the steps
    of a continuous system are scaled, here the series is laid out.

    Example:
        >>> grid = SeasonGrid(slots=24, past=672, future=192, seasonality=7)
        >>> grid.context_length, grid.prediction_length, grid.ahead[:4].tolist()
        (196, 56, [2, 6, 9, 13])
    """

    def __init__(self, *, slots: int, past: int, future: int, seasonality: int) -> None:
        if isinstance(seasonality, bool) or not isinstance(seasonality, int) or seasonality < 1:
            raise ConfigError("seasonality is a whole number of steps, at least 1.", asked=seasonality)
        self.past, self.future = past, future
        self.is_identity = seasonality >= slots
        scale = 1.0 if self.is_identity else SEASONLESS if seasonality == 1 else slots / seasonality
        self.context_length, self.prediction_length = int(past / scale), int(future / scale)
        count = torch.arange(1, max(self.context_length, self.prediction_length) + 1, dtype=torch.float64)
        apart = (scale * count).round().long()  # of the steps 1, 2, ... from the present
        self.ahead = apart[: self.prediction_length] - 1
        self.behind = past - 1 - torch.cat([apart.new_zeros(1), apart])[: self.context_length].flip(0)

    def lay_out(self, x_BLC: Tensor) -> Tensor:
        """Returns the last steps of a series on the grid, NaN between them and before them.

        Shapes: [B, L, C] -> [B, G, C].
        """
        x_BLC = x_BLC[:, -self.context_length :]
        if self.is_identity:
            return x_BLC
        grid = x_BLC.new_full((x_BLC.shape[0], self.past, x_BLC.shape[2]), torch.nan)
        where = self.behind.to(x_BLC.device)[self.context_length - x_BLC.shape[1] :]
        return grid.index_copy(1, where, x_BLC)

    def read(self, y_BG: Tensor) -> Tensor:
        """Returns the future steps of a series from a grid that begins after the present.

        Shapes: [B, G, ...] -> [B, prediction_length, ...].
        """
        return y_BG if self.is_identity else y_BG[:, self.ahead.to(y_BG.device)]
