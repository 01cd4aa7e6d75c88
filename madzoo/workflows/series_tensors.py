"""A user's series, however given, as tensors to train on."""

from typing import Any

import torch
from torch import Tensor

from madzoo.data.series import Series
from madzoo.errors import ShapeError
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.series_reading import each_of, read_series

__all__ = ["series_tensors"]


def series_tensors(data: Any, model: Forecaster) -> list[Tensor]:
    """Returns [L, C] series in float64: one channel each, unless the model takes channels together.

    Args:
        data: records of a table (:class:`madzoo.data.series.Series`), a tensor [B, L, C], or [L] or [L, C] series.
        model: whose channels the series must fit.

    Raises:
        DataError: when there are no series, or one is no array of numbers or holds an infinite value.
        ShapeError: when there is none, one is empty or has other axes, or the channels do not fit the model.
    """
    if isinstance(data, list) and data and all(isinstance(one, Series) for one in data):
        values = [torch.from_numpy(one.values.copy()) for one in data]
        count = len({one.target_name for one in data})
        found = [torch.stack(values[i : i + count], dim=1) for i in range(0, len(values), count)]
    else:
        found = [read_series(one).double().detach().cpu() for one in each_of("the data to fine-tune on", data)]
    if not found or any(one.numel() == 0 for one in found):
        raise ShapeError("there is no series to fine-tune on, or an empty one.")
    together = model.num_channels is not None or getattr(model, "channels_meet", False)
    channels = {one.shape[1] for one in found}
    if together and (len(channels) > 1 or model.num_channels not in (None, *channels)):
        raise ShapeError(
            "the channels of the series differ, or do not fit the model.",
            asked=sorted(channels),
            looked=f"a model for {model.num_channels or 'any number of'} channels",
        )
    return found if together else [column for one in found for column in one.split(1, dim=1)]
