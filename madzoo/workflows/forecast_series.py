"""Series in, a table of forecasts out: the model, the levels and the batches behind ``madzoo.forecast``."""

import logging
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor, nn

from madzoo.data.series import Series
from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.quantile_levels import central_level, check_levels, usual_levels
from madzoo.layers.series_reading import whole_number
from madzoo.workflows.finetune_folder import as_name
from madzoo.workflows.forecast_covariates import Covariates, read_covariates
from madzoo.workflows.forecast_tables import level_names, table_of_forecasts
from madzoo.workflows.season import by_season

__all__ = ["asked_levels", "find_forecaster", "forecast_series", "progress_bar"]

logger = logging.getLogger(__name__)


def find_forecaster(model_or_name: nn.Module | str, device: str | torch.device | None) -> Forecaster:
    """Returns a forecaster, by its name with its weights, on a device where one is asked for.

    Raises:
        ConfigError: when it does not forecast, or there is no such device.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    model = model_or_name
    if isinstance(model, str):
        model = create_model(as_name(model), pretrained=True)
    if not isinstance(model, Forecaster):
        raise ConfigError(
            "this model is no forecaster.",
            asked=model_or_name if isinstance(model_or_name, str) else type(model).__name__,
            todo="madzoo.list_models(task='time-series-forecasting', pretrained=True)",
        )
    try:
        return model if device is None else model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no such device: {str(error).splitlines()[0]}", asked=f"device={device}") from error


def asked_levels(model: Forecaster, asked: Sequence[float] | None) -> tuple[float, ...]:
    """Returns the levels asked for, of which there may be none, or the usual ones.

    Raises:
        ConfigError: when they are no levels between the model's.
    """
    if asked is None:
        return usual_levels(model.quantile_levels)
    return () if isinstance(asked, Sized) and len(asked) == 0 else check_levels(model.quantile_levels, asked)


def forecast_series(
    model: Forecaster,
    df: pd.DataFrame,
    series: Sequence[Series],
    asked: Covariates,
    *,
    horizon: Any,
    levels: Sequence[float],
    columns: dict[str, str],
    seasonality: int | None,
    batch_size: int | None,
    on_batch: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """Forecasts series that were read from a table.

    Args:
        model: whose weights serve; one that asks for its season is told that of each series.
        df: the table, for its covariates.
        series: all that is forecast.
        asked: the covariates.
        horizon: steps to forecast.
        levels: see :func:`asked_levels`.
        columns: names of the id and time columns.
        seasonality: the season of all; None: what is usual for the step of each.
        batch_size, on_batch: see :meth:`madzoo.layers.forecaster.Forecaster.predict`.

    Raises:
        ConfigError, DataError: see :func:`madzoo.workflows.forecast.forecast`.
    """
    horizon = whole_number("prediction_length", horizon)
    names = level_names(levels, columns)
    centre = central_level(model.quantile_levels)
    if centre != 0.5:
        logger.warning("%s has no median: predictions are its quantile of %s.", type(model).__name__, centre)
    # A model whose channels meet, or that is made for a number of them, takes the targets of an item together.
    targets = len({one.target_name for one in series})
    together = targets if model.num_channels is not None or getattr(model, "channels_meet", False) else 1
    firsts = series[::together]
    values, options, added = read_covariates(model, df, series, asked, horizon=horizon, columns=columns, firsts=firsts)
    values = [np.stack(values[start : start + together], axis=1) for start in range(0, len(values), together)]
    choices = {"prediction_length": horizon, "quantile_levels": (*levels, centre), "batch_size": batch_size}
    told = by_season(model, seasonality, firsts)
    quantiles = _predict(told, values, options, on_batch, choices)
    found_NHQ = quantiles.transpose(1, 2).flatten(0, 1).double().cpu().numpy()
    return table_of_forecasts(series, found_NHQ if added is None else found_NHQ + added[..., None], names, columns)


def _predict(
    told: Sequence[tuple[Forecaster, list[int]]],
    values: Sequence[np.ndarray],
    options: Mapping[str, Sequence[Any]],
    on_batch: Callable[[int, int], None] | None,
    choices: Mapping[str, Any],
) -> Tensor:
    """Returns the quantiles of all series [N, H, C, Q], each forecast by the model that knows its season."""
    parts, done = [], 0
    for model, places in told:
        mine = {name: [given[place] for place in places] for name, given in options.items()}
        count = None if on_batch is None else partial(_count, on_batch, done, len(values))
        parts.append(model.predict([values[place] for place in places], on_batch=count, **mine, **choices)[0])
        done += len(places)
    order = torch.tensor([place for _, places in told for place in places]).argsort()
    return torch.cat(parts)[order.to(parts[0].device)]


def _count(on_batch: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    on_batch(before + done, total)


@contextmanager
def progress_bar(shown: bool) -> Any:
    """Yields what to call after a batch: a bar in the terminal, or nothing."""
    if not shown:
        yield None
        return
    with Progress() as bar:
        task = bar.add_task("forecast", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
