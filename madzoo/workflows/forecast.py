"""A table in, a table of forecasts out: in the units of the input, on the time stamps that follow.

The columns are those of chronos' ``predict_df``: item_id, timestamp, target_name, predictions, and one per level.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN
from madzoo.data.series import Series, read_series
from madzoo.errors import ConfigError, DataError
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.plot_forecast import plot_forecast

__all__ = ["DEFAULT_MODEL", "NINE_LEVELS", "forecast", "forecast_file"]

DEFAULT_MODEL = "forecast-default"
NINE_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TARGET = "target"
logger = logging.getLogger(__name__)


def forecast(
    model_or_name: nn.Module | str,
    df: pd.DataFrame,
    *,
    prediction_length: int,
    future_df: pd.DataFrame | None = None,
    quantile_levels: Sequence[float] = NINE_LEVELS,
    id_column: str = ID_COLUMN,
    timestamp_column: str = TIMESTAMP_COLUMN,
    target: str | Sequence[str] = TARGET,
    freq: str | int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> pd.DataFrame:
    """Forecasts every series of a data frame.

    Args:
        model_or_name: a forecaster, or the name of one, whose weights are then loaded.
        df: a long table (one row per series and time) or a wide one (one column per series). An empty cell or a
            missing row is a missing value.
        prediction_length: steps to forecast; more than the model's own are rolled out, see
            :meth:`madzoo.layers.forecaster.Forecaster.predict`.
        future_df: known future covariates; no model here takes any, so that anything but None is refused.
        quantile_levels: the levels to return.
        id_column, timestamp_column: the default names are looked for under their usual forms, any other must exist.
        target: the column or columns to forecast. Where the default name does not exist: every other column.
        freq: the step, such as "h" or "MS", or a number for integer time; None: the most common step.
        batch_size: series at a time.
        device: where to compute; the model is moved there. None: where it is.

    Returns:
        One row per series and future step, series in the order of the table: ``id_column`` ("0" where the table names
        no series), ``timestamp_column``, ``target_name``, ``predictions`` (the median, as in chronos) and a column
        per level, such as ``"0.1"``.

    Raises:
        DataError: when the table cannot be read as series, see :func:`madzoo.data.series.read_series`.
        ConfigError: when the model is no forecaster, on covariates, or on levels or horizons it does not have.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if future_df is not None:
        raise ConfigError(
            "future covariates are not supported: no registered forecaster takes any.",
            asked=f"future_df with columns {list(getattr(future_df, 'columns', []))}",
            todo="leave future_df out",
        )
    if not isinstance(df, pd.DataFrame):
        raise DataError("forecast takes a pandas data frame.", asked=type(df).__name__, todo="madzoo forecast FILE")
    everything = isinstance(target, str) and target == TARGET and TARGET not in df
    columns = {"id_column": id_column, "timestamp_column": timestamp_column}
    series = read_series(df, target=None if everything else target, freq=freq, **columns)
    _log_unused(df, series, columns)
    model = _forecaster(model_or_name, device)
    return _forecast_series(model, series, prediction_length, quantile_levels, batch_size, columns)


def forecast_file(
    path: str | Path,
    *,
    model: nn.Module | str = DEFAULT_MODEL,
    prediction_length: int | None = None,
    quantile_levels: Sequence[float] | None = None,
    id_column: str = ID_COLUMN,
    timestamp_column: str = TIMESTAMP_COLUMN,
    target: str | Sequence[str] | None = None,
    freq: str | int | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    csv: str | Path | None = None,
    png: str | Path | None = None,
) -> pd.DataFrame:
    """Forecasts every series of a CSV or Parquet file, and writes table and picture where asked to.

    Args:
        path: the file; every column but id and time is forecast unless ``target`` names some.
        prediction_length: None: as many steps as the model forecasts at once.
        quantile_levels: None: the model's own.
        csv, png: where to write the forecasts and the quantile fan; None: nowhere.

    The other arguments, and the returned table, are those of :func:`forecast`.

    Raises:
        DataError: also when an output cannot be written.
        ConfigError: see :func:`forecast`.
    """
    columns = {"id_column": id_column, "timestamp_column": timestamp_column}
    series = read_series(path, target=target, freq=freq, **columns)
    forecaster = _forecaster(model, device)
    horizon = forecaster.prediction_length if prediction_length is None else prediction_length
    levels = forecaster.quantile_levels if quantile_levels is None else quantile_levels
    table = _forecast_series(forecaster, series, horizon, levels, batch_size, columns)
    try:
        if csv is not None:
            table.to_csv(csv, index=False)
        if png is not None:
            plot_forecast(series, table, png, quantile_levels=levels)
    except OSError as error:
        raise DataError(f"the forecast could not be written: {error}.", asked=csv if png is None else png) from error
    return table


def _forecaster(model_or_name: nn.Module | str, device: str | torch.device | None) -> Forecaster:
    model = create_model(model_or_name, pretrained=True) if isinstance(model_or_name, str) else model_or_name
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


def _forecast_series(
    model: Forecaster,
    series: Sequence[Series],
    horizon: int,
    levels: Sequence[float],
    batch_size: int,
    columns: dict[str, str],
) -> pd.DataFrame:
    if batch_size < 1:
        raise ConfigError("batch_size is at least 1.", asked=batch_size)
    names = [str(float(level)) for level in levels]
    if len(set(names)) < len(names):
        raise ConfigError("a quantile level is asked for twice.", asked=list(levels))
    blocks = []
    for start in range(0, len(series), batch_size):
        values = [one.values for one in series[start : start + batch_size]]
        quantiles, _ = model.predict(values, prediction_length=horizon, quantile_levels=(*levels, 0.5))
        blocks.append(quantiles[:, :, 0].double().cpu().numpy())
    frames = [_frame(one, block, names, columns) for one, block in zip(series, np.concatenate(blocks), strict=True)]
    return pd.concat(frames, ignore_index=True)


def _frame(one: Series, quantiles_HQ: np.ndarray, names: list[str], columns: dict[str, str]) -> pd.DataFrame:
    head = {
        columns["id_column"]: one.item_id,
        columns["timestamp_column"]: one.future(len(quantiles_HQ)),
        "target_name": one.target_name,
        "predictions": quantiles_HQ[:, -1],
    }
    return pd.DataFrame(head | dict(zip(names, quantiles_HQ.T, strict=False)))


def _log_unused(df: pd.DataFrame, series: Sequence[Series], columns: dict[str, str]) -> None:
    """Says which numeric columns are left out: chronos would take them for past covariates."""
    used = {one.target_name for one in series} | set(columns.values())
    unused = [str(name) for name in df.select_dtypes("number") if str(name) not in used]
    if unused:
        logger.warning("columns %s are not used: no model here takes covariates.", ", ".join(unused))
