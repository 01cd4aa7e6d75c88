"""A table in, a table of forecasts out: in the units of the input, on the time stamps that follow.

The columns are those of chronos' ``predict_df``: item_id, timestamp, target_name, predictions, and one per level.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN, Label, named_columns
from madzoo.data.series import read_table
from madzoo.data.time_grid import Step
from madzoo.errors import DataError
from madzoo.workflows.forecast_covariates import Covariates
from madzoo.workflows.forecast_series import asked_levels, find_forecaster, forecast_series, progress_bar
from madzoo.workflows.forecast_tables import key_columns, read_targets, warn_of_unused_columns
from madzoo.workflows.plot_forecast import plot_forecast

__all__ = ["DEFAULT_MODEL", "forecast", "forecast_file"]

DEFAULT_MODEL = "forecast-default"
TARGET = "target"


def forecast(
    model_or_name: nn.Module | str,
    df: pd.DataFrame,
    *,
    prediction_length: int,
    future_df: pd.DataFrame | None = None,
    quantile_levels: Sequence[float] | None = None,
    id_column: Label = ID_COLUMN,
    timestamp_column: Label = TIMESTAMP_COLUMN,
    target: Label | Sequence[Label] | None = TARGET,
    freq: Step | str | None = None,
    seasonality: int | None = None,
    past_covariates: Sequence[Label] = (),
    static_covariates: Sequence[Label] = (),
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
        quantile_levels: the levels to return; None: 0.1 to 0.9 where the model's range covers them, else its own.
        id_column, timestamp_column: the default names are looked for under their usual forms, any other must exist.
            They name columns of the forecast too, so that none of its own may be called the same.
        target: the column or columns to forecast. Where the default name does not exist, and for None: every other
            column. A column labelled by a number is called by its text.
        freq: the step, such as "h" or "MS", or an offset, or a number for integer time; None: the most common step.
            Rows that lie on no regular grid are then taken as equally spaced, and a warning says so.

        seasonality: steps of a season, for models that ask for one; a warning tells where the model does not. None:
            what is usual for the step of each series (:func:`madzoo.data.time_grid.season_of`) where the model asks,
            else its own.
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
        no series), ``timestamp_column``, ``target_name``, ``predictions`` (the median, as in chronos; for a model
        whose levels leave 0.5 out, the nearest of them, and a warning says so) and a column per level, such as
        ``"0.1"``.

    Raises:
        DataError: when the tables cannot be read as series, see :func:`madzoo.data.series.read_series`, or future_df
            lacks a step or a value.
        ConfigError: when the model is no forecaster, does not support the covariates, on levels or horizons it does
            not have, or when a column is asked for by no name, or would be lost under another of the same name.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if not isinstance(df, pd.DataFrame):
        raise DataError("forecast takes a pandas data frame.", asked=type(df).__name__, todo="madzoo forecast FILE")
    df = named_columns(df)
    everything = target is None or (isinstance(target, str) and target == TARGET and TARGET not in df)
    columns = key_columns(id_column, timestamp_column)
    model = find_forecaster(model_or_name, device)
    asked = Covariates.asked(
        past=past_covariates, static=static_covariates, future=future_df, regression=covariate_regression
    )
    asked.check(model, columns)
    series = read_targets(df, None if everything else target, freq, columns, asked)
    warn_of_unused_columns(df, series, columns, asked)
    levels = asked_levels(model, quantile_levels)
    with progress_bar(progress) as on_batch:
        return forecast_series(
            model, df, series, asked, horizon=prediction_length, levels=levels, columns=columns,
            seasonality=seasonality, batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip


def forecast_file(
    path: str | Path,
    *,
    model: nn.Module | str = DEFAULT_MODEL,
    prediction_length: int | None = None,
    future: str | Path | None = None,
    quantile_levels: Sequence[float] | None = None,
    id_column: Label = ID_COLUMN,
    timestamp_column: Label = TIMESTAMP_COLUMN,
    target: Label | Sequence[Label] | None = None,
    freq: Step | str | None = None,
    seasonality: int | None = None,
    past_covariates: Sequence[Label] = (),
    static_covariates: Sequence[Label] = (),
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
        csv, png: where to write the forecasts and the quantile fan; None: nowhere.

    The other arguments, and the returned table, are those of :func:`forecast`.

    Raises:
        DataError: also when an output cannot be written.
        ConfigError: see :func:`forecast`.
    """
    columns = key_columns(id_column, timestamp_column)
    df = named_columns(read_table(Path(path)))
    beside = None if future is None else read_table(Path(future))
    asked = Covariates.asked(
        past=past_covariates, static=static_covariates, future=beside, regression=covariate_regression
    )
    series = read_targets(df, target, freq, columns, asked)
    forecaster = find_forecaster(model, device)
    asked.check(forecaster, columns)
    horizon = forecaster.prediction_length if prediction_length is None else prediction_length
    levels = asked_levels(forecaster, quantile_levels)
    with progress_bar(progress) as on_batch:
        table = forecast_series(
            forecaster, df, series, asked, horizon=horizon, levels=levels, columns=columns,
            seasonality=seasonality, batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip
    try:
        if csv is not None:
            table.to_csv(csv, index=False)
        if png is not None:
            plot_forecast(series, table, png, quantile_levels=levels)
    except OSError as error:
        raise DataError(f"the forecast could not be written: {error}.", asked=csv if png is None else png) from error
    return table
