"""A table in, a table of forecasts out: in the units of the input, on the time stamps that follow.

The columns are those of chronos' ``predict_df``: item_id, timestamp, target_name, predictions, and one per level.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress
from torch import nn

from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN, find_ids, find_time
from madzoo.data.series import Series, read_series, read_table
from madzoo.errors import ConfigError, DataError
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.finetune_folder import as_name
from madzoo.workflows.forecast_covariates import Covariates, read_covariates
from madzoo.workflows.plot_forecast import plot_forecast
from madzoo.workflows.season import with_season

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
    seasonality: int | None = None,
    past_covariates: Sequence[str] = (),
    static_covariates: Sequence[str] = (),
    covariate_regression: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Forecasts every series of a data frame.

    Args:
        model_or_name: a forecaster, or the name or checkpoint folder of one, whose weights are then loaded.
        df: a long table (one row per series and time) or a wide one (one column per series). An empty cell or a
            missing row is a missing value.
        prediction_length: steps to forecast; more than the model's own are rolled out, see
            :meth:`madzoo.layers.forecaster.Forecaster.predict`.
        future_df: id, time and the known-future covariates of the steps to forecast: its other columns, which ``df``
            holds for the past. Empty target columns are allowed.
        quantile_levels: the levels to return.
        id_column, timestamp_column: the default names are looked for under their usual forms, any other must exist.
        target: the column or columns to forecast. Where the default name does not exist: every other column.
        freq: the step, such as "h" or "MS", or a number for integer time; None: the most common step. Rows that lie on
            no regular grid are then taken as equally spaced, and a warning says so.
        seasonality: steps of a season, for models that ask for one; a warning tells where the model does not. None:
            what is usual for the step (:func:`madzoo.data.time_grid.season_of`) where the model asks, else its own.
        past_covariates: columns that are known as long as the target, for a model that supports ``"past"``.
        static_covariates: columns with one value a series, for a model that supports ``"static"``.
        covariate_regression: take out of each series what the columns of ``future_df`` explain by a ridge regression on
            its context, forecast the rest, and add what they explain of the future. Works with every model; see
            :func:`madzoo.workflows.covariate_regression.fit_covariates`.
        batch_size: series at a time, of memory and speed alone; None: as many as have 512 channels together.
        device: where to compute; the model is moved there. None: where it is.
        progress: show a bar in the terminal.

    A column that no argument names is left out, and a warning lists such columns: a covariate is what is asked for.

    Returns:
        One row per series and future step, series in the order of the table: ``id_column`` ("0" where the table names
        no series), ``timestamp_column``, ``target_name``, ``predictions`` (the median, as in chronos) and a column
        per level, such as ``"0.1"``.

    Raises:
        DataError: when the tables cannot be read as series, see :func:`madzoo.data.series.read_series`, or future_df
            lacks a step or a value.
        ConfigError: when the model is no forecaster, does not support the covariates, or on levels or horizons it does
            not have.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if not isinstance(df, pd.DataFrame):
        raise DataError("forecast takes a pandas data frame.", asked=type(df).__name__, todo="madzoo forecast FILE")
    everything = isinstance(target, str) and target == TARGET and TARGET not in df
    columns = {"id_column": id_column, "timestamp_column": timestamp_column}
    model = _forecaster(model_or_name, device)
    asked = Covariates(
        past=past_covariates, static=static_covariates, future=future_df, regression=covariate_regression
    )
    asked.check(model, columns)
    series = _read(df, None if everything else target, freq, columns, asked)
    _log_unused(df, series, columns, asked)
    with _bar(progress) as on_batch:
        return _forecast_series(
            with_season(model, seasonality, series), df, series, asked, horizon=prediction_length,
            levels=quantile_levels, columns=columns, batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip


def forecast_file(
    path: str | Path,
    *,
    model: nn.Module | str = DEFAULT_MODEL,
    prediction_length: int | None = None,
    future: str | Path | None = None,
    quantile_levels: Sequence[float] | None = None,
    id_column: str = ID_COLUMN,
    timestamp_column: str = TIMESTAMP_COLUMN,
    target: str | Sequence[str] | None = None,
    freq: str | int | None = None,
    seasonality: int | None = None,
    past_covariates: Sequence[str] = (),
    static_covariates: Sequence[str] = (),
    covariate_regression: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    csv: str | Path | None = None,
    png: str | Path | None = None,
) -> pd.DataFrame:
    """Forecasts every series of a CSV or Parquet file, and writes table and picture where asked to.

    Args:
        path: the file; every column but id, time and covariates is forecast unless ``target`` names some.
        prediction_length: None: as many steps as the model forecasts at once.
        future: a file of known-future covariates, see ``future_df``.
        quantile_levels: None: the model's own.
        csv, png: where to write the forecasts and the quantile fan; None: nowhere.

    The other arguments, and the returned table, are those of :func:`forecast`.

    Raises:
        DataError: also when an output cannot be written.
        ConfigError: see :func:`forecast`.
    """
    columns = {"id_column": id_column, "timestamp_column": timestamp_column}
    df = read_table(Path(path))
    beside = None if future is None else read_table(Path(future))
    asked = Covariates(past=past_covariates, static=static_covariates, future=beside, regression=covariate_regression)
    series = _read(df, target, freq, columns, asked)
    forecaster = with_season(_forecaster(model, device), seasonality, series)
    asked.check(forecaster, columns)
    horizon = forecaster.prediction_length if prediction_length is None else prediction_length
    levels = forecaster.quantile_levels if quantile_levels is None else quantile_levels
    with _bar(progress) as on_batch:
        table = _forecast_series(
            forecaster, df, series, asked, horizon=horizon, levels=levels, columns=columns,
            batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip
    try:
        if csv is not None:
            table.to_csv(csv, index=False)
        if png is not None:
            plot_forecast(series, table, png, quantile_levels=levels)
    except OSError as error:
        raise DataError(f"the forecast could not be written: {error}.", asked=csv if png is None else png) from error
    return table


def _forecaster(model_or_name: nn.Module | str, device: str | torch.device | None) -> Forecaster:
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


def _read(
    df: pd.DataFrame, target: str | Sequence[str] | None, freq: Any, columns: dict[str, str], asked: Covariates
) -> list[Series]:
    """Reads the targets: where none is named, every column that is no covariate."""
    beside = {*asked.past, *asked.static, *asked.future_names(columns)}
    if target is None and beside:
        ids = find_ids(df, columns["id_column"])
        taken = {*beside, ids, find_time(df, columns["timestamp_column"], exclude=ids)}
        target = [str(name) for name in df if name not in taken]
    return read_series(df, target=target, freq=freq, **columns)


def _forecast_series(
    model: Forecaster,
    df: pd.DataFrame,
    series: Sequence[Series],
    asked: Covariates,
    *,
    horizon: int,
    levels: Sequence[float],
    columns: dict[str, str],
    batch_size: int | None,
    on_batch: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    names = [str(float(level)) for level in levels]
    if len(set(names)) < len(names):
        raise ConfigError("a quantile level is asked for twice.", asked=list(levels))
    # A model whose channels meet, or that is made for a number of them, takes the targets of an item together.
    targets = len({one.target_name for one in series})
    together = targets if model.num_channels is not None or getattr(model, "channels_meet", False) else 1
    firsts = series[::together]
    values, options, added = read_covariates(model, df, series, asked, horizon=horizon, columns=columns, firsts=firsts)
    values = [np.stack(values[start : start + together], axis=1) for start in range(0, len(values), together)]
    quantiles, _ = model.predict(
        values, prediction_length=horizon, quantile_levels=(*levels, 0.5), batch_size=batch_size, on_batch=on_batch,
        **options,
    )  # fmt: skip
    found_NHQ = quantiles.transpose(1, 2).flatten(0, 1).double().cpu().numpy()
    return _table(series, found_NHQ if added is None else found_NHQ + added[..., None], names, columns)


def _table(
    series: Sequence[Series], quantiles_NHQ: np.ndarray, names: list[str], columns: dict[str, str]
) -> pd.DataFrame:
    horizon = quantiles_NHQ.shape[1]
    futures: dict[Any, pd.Index] = {}
    for one in series:
        key = (one.stamps[-1], one.step)
        futures[key] = futures[key] if key in futures else one.future(horizon)
    stamps = [futures[one.stamps[-1], one.step] for one in series]
    items = pd.Series([one.item_id for one in series]).repeat(horizon).reset_index(drop=True)
    head = {
        columns["id_column"]: items,
        columns["timestamp_column"]: stamps[0].append(stamps[1:]),
        "target_name": np.repeat(np.array([one.target_name for one in series], dtype=object), horizon),
        "predictions": quantiles_NHQ[..., -1].ravel(),
    }
    levels = {name: quantiles_NHQ[..., place].ravel() for place, name in enumerate(names)}
    return pd.DataFrame(head | levels).astype({"target_name": "str"})


@contextmanager
def _bar(shown: bool) -> Any:
    """Yields what to call after a batch: a bar in the terminal, or nothing."""
    if not shown:
        yield None
        return
    with Progress() as bar:
        task = bar.add_task("forecast", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _log_unused(df: pd.DataFrame, series: Sequence[Series], columns: dict[str, str], asked: Covariates) -> None:
    """Says which numeric columns are left out: chronos would take them for past covariates."""
    used = {one.target_name for one in series} | set(columns.values())
    used |= {*asked.past, *asked.static, *asked.future_names(columns)}
    unused = [str(name) for name in df.select_dtypes("number") if str(name) not in used]
    if unused:
        logger.warning("columns %s are not used: no argument names them as covariates.", ", ".join(unused))
