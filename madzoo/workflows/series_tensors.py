"""A user's series, however given, as tensors to train on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from madzoo.data.series import Series
from madzoo.errors import DataError, ShapeError
from madzoo.layers.forecaster import Forecaster

__all__ = ["series_tensors"]


def series_tensors(data: Any, model: Forecaster) -> list[Tensor]:
    """Returns [L, C] series in float64: one channel each, unless the model takes channels together.

    Args:
        data: records of a table (:class:`madzoo.data.series.Series`), a tensor [B, L, C], or [L] or [L, C] series.
        model: whose channels the series must fit.

    Raises:
        DataError: when a series is no array of numbers or holds an infinite value.
        ShapeError: when there is none, one is empty or has other axes, or the channels do not fit the model.
    """
    if isinstance(data, list) and data and all(isinstance(one, Series) for one in data):
        values = [torch.from_numpy(one.values.copy()) for one in data]
        count = len({one.target_name for one in data})
        found = [torch.stack(values[i : i + count], dim=1) for i in range(0, len(values), count)]
    else:
        found = [_as_channels(one) for one in data]
    if not found or any(one.numel() == 0 for one in found):
        raise ShapeError("there is no series to fine-tune on, or an empty one.")
    if any(one.isinf().any() for one in found):
        raise DataError("a series holds an infinite value.", todo="NaN where a value is missing")
    together = model.num_channels is not None or getattr(model, "channels_meet", False)
    channels = {one.shape[1] for one in found}
    if together and (len(channels) > 1 or model.num_channels not in (None, *channels)):
        raise ShapeError(
            "the channels of the series differ, or do not fit the model.",
            asked=sorted(channels),
            looked=f"a model for {model.num_channels or 'any number of'} channels",
        )
    return found if together else [column for one in found for column in one.split(1, dim=1)]


def _as_channels(one: Any) -> Tensor:
    try:
        series = one.double() if isinstance(one, Tensor) else torch.tensor(np.asarray(one, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DataError("a series is not an array of numbers.", asked=f"{type(one).__name__}: {error}") from error
    if series.ndim not in (1, 2):
        raise ShapeError("a series is [L] or [L, C].", asked=list(series.shape))
    return series.detach().cpu().reshape(len(series), -1)
