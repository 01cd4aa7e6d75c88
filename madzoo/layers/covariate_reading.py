"""Covariates beside the series of ``predict``: which a model takes, and whether they stand where the series do.

Axes: L length, H horizon, K covariates.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.past_values import fit_context
from madzoo.layers.series_reading import each_of, read_array, widest

__all__ = ["COVARIATES", "check_covariates", "read_covariates", "stack_covariates"]

COVARIATES = ("past", "known_future", "static")
_ARGUMENTS = {"past": "past_covariates", "known_future": "future_covariates", "static": "static_covariates"}
_AXES = {"past": "[L, K], L the length of its past", "known_future": "[H, K], H the horizon", "static": "[K]"}


def check_covariates(model: Any, kinds: Collection[str], horizon: int) -> None:
    """Refuses covariates that a model cannot use.

    Raises:
        ConfigError: when it does not support a kind, or the forecast goes on beyond what anybody knows.
    """
    if strange := [kind for kind in kinds if kind not in model.supports_covariates]:
        raise ConfigError(
            f"{type(model).__name__} takes no {' and no '.join(strange)} covariates.",
            asked=", ".join(kinds),
            looked=f"it supports {', '.join(sorted(model.supports_covariates)) or 'none'}",
            todo="leave them out",
        )
    if kinds and horizon > model.prediction_length:
        raise ConfigError(
            "beyond the model's horizon covariates are unknown.",
            asked=f"prediction_length={horizon}",
            todo=f"prediction_length={model.prediction_length} or less",
        )


def read_covariates(
    given: Mapping[str, Any], lengths: Sequence[int], *, horizon: int, context_length: int
) -> dict[str, list[Tensor]]:
    """Returns covariates by the names that ``forward`` gives them, one tensor a series, all of a kind of one dtype.

    Args:
        given: by their kind, one of :data:`COVARIATES`.
        lengths: of the series, cropped to the context.
        horizon: steps to forecast.
        context_length: to which those of the past are cropped, too.

    Raises:
        DataError: when they are no numbers, or one is infinite.
        ShapeError: when they do not stand beside the series.
    """
    found = {}
    for kind, values in given.items():
        name = _ARGUMENTS[kind]
        each = [read_array(x, name) for x in each_of(name, values, todo=f"{_AXES[kind]}, for each series")]
        if kind == "past":
            each = [x[-context_length:] if x.ndim else x for x in each]
        steps: Any = {"past": [(n,) for n in lengths], "known_future": [(horizon,)] * len(lengths)}
        wanted = steps.get(kind, [()] * len(lengths))
        counts = {x.shape[-1] for x in each if x.ndim}
        if [tuple(x.shape[:-1]) for x in each if x.ndim] != wanted or len(counts) != 1:
            raise ShapeError(
                f"{kind} covariates do not stand beside past_values.",
                asked=f"{name}: {len(each)} of shapes {[list(x.shape) for x in each[:5]]}",
                looked=f"{len(lengths)} series of {list(lengths[:5])} steps",
                todo=f"{_AXES[kind]}, for each series",
            )
        dtype = widest(each)
        found[name] = [x.to(dtype) for x in each]
    return found


def stack_covariates(
    covariates: Mapping[str, Sequence[Tensor]], index: Sequence[int], length: int, device: torch.device
) -> dict[str, Tensor]:
    """Returns the covariates of some series as one tensor a kind; of a shorter past, NaN to the left.

    Shapes: [B, length, K], [B, H, K] and [B, K].
    """
    stacked = {}
    for name, each in covariates.items():
        chosen = [each[i] for i in index]
        if name == _ARGUMENTS["past"]:
            chosen = [fit_context(x, length, dim=0) for x in chosen]
        stacked[name] = torch.stack(chosen).to(device)
    return stacked
