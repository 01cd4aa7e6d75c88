"""What a forecast reads of a user's table, and the table it becomes: its columns, their names, its time stamps."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from madzoo.data.columns import column_name, find_ids, find_time
from madzoo.data.series import Series, read_series
from madzoo.data.time_grid import Step
from madzoo.errors import ConfigError
from madzoo.workflows.forecast_covariates import Covariates

__all__ = ["key_columns", "level_names", "read_targets", "table_of_forecasts", "warn_of_unused_columns"]

TARGET_NAME, PREDICTIONS = "target_name", "predictions"
logger = logging.getLogger(__name__)


def key_columns(id_column: Any, timestamp_column: Any) -> dict[str, str]:
    """Returns the names of the id and time columns by their options.

    Raises:
        ConfigError: when one is no column's name.
    """
    asked = {"id_column": id_column, "timestamp_column": timestamp_column}
    return {option: column_name(label, option) for option, label in asked.items()}


def read_targets(
    df: pd.DataFrame, target: Any, freq: Step | str | None, columns: dict[str, str], asked: Covariates
) -> list[Series]:
    """Reads the targets: where none is named, every column that is no covariate.

    Args:
        df: with named columns.
        target, freq: see :func:`madzoo.data.series.read_series`.
        columns: names of the id and time columns.
        asked: the covariates.
    """
    beside = {*asked.past, *asked.static, *asked.future_names(columns)}
    if target is None and beside:
        target = [name for name in df if name not in {*beside, *_keys(df, columns)}]
    return read_series(df, target=target, freq=freq, **columns)


def warn_of_unused_columns(
    df: pd.DataFrame, series: Sequence[Series], columns: dict[str, str], asked: Covariates
) -> None:
    """Says which numeric columns are left out: chronos would take them for past covariates."""
    used = {one.target_name for one in series} | _keys(df, columns)
    used |= {*asked.past, *asked.static, *asked.future_names(columns)}
    unused = [name for name in df.select_dtypes("number") if name not in used]
    if unused:
        logger.warning("columns %s are not used: no argument names them as covariates.", ", ".join(unused))


def level_names(levels: Sequence[float], columns: dict[str, str]) -> list[str]:
    """Returns what the columns of the quantiles are called.

    Raises:
        ConfigError: when a level is asked for twice, or two columns of the forecast would have one name.
    """
    names = [str(float(level)) for level in levels]
    if len(set(names)) < len(names):
        raise ConfigError("a quantile level is asked for twice.", asked=list(levels))
    for option, name in columns.items():
        others = [other for key, other in columns.items() if key != option]
        if name in {TARGET_NAME, PREDICTIONS, *names, *others}:
            raise ConfigError(
                f"a forecast has a column {name!r} of its own, beside the one asked for.",
                asked=f"{option}={name}",
                looked=f"columns {', '.join([*columns.values(), TARGET_NAME, PREDICTIONS, *names])}",
                todo=f"df.rename(columns={{{name!r}: 'another'}}), {option}='another'",
            )
    return names


def table_of_forecasts(
    series: Sequence[Series], quantiles_NHQ: np.ndarray, names: Sequence[str], columns: dict[str, str]
) -> pd.DataFrame:
    """Returns one row per series and future step.

    Args:
        series: N, in the order of the rows.
        quantiles_NHQ: of the named levels, and at last the predictions.
        names: see :func:`level_names`.
        columns: names of the id and time columns.
    """
    horizon = quantiles_NHQ.shape[1]
    futures: dict[Any, pd.Index] = {}
    for one in series:
        key = (one.stamps[-1], one.step)
        futures[key] = futures[key] if key in futures else one.future(horizon)
    stamps = [futures[one.stamps[-1], one.step] for one in series]
    head = {
        columns["id_column"]: pd.Series([one.item_id for one in series]).repeat(horizon).reset_index(drop=True),
        columns["timestamp_column"]: stamps[0].append(stamps[1:]),
        TARGET_NAME: np.repeat(np.array([one.target_name for one in series], dtype=object), horizon),
        PREDICTIONS: quantiles_NHQ[..., -1].ravel(),
    }
    levels = {name: quantiles_NHQ[..., place].ravel() for place, name in enumerate(names)}
    return pd.DataFrame(head | levels).astype({TARGET_NAME: "str"})


def _keys(df: pd.DataFrame, columns: dict[str, str]) -> set[str | None]:
    """The columns of the series' names and of time, as they were found."""
    ids = find_ids(df, columns["id_column"])
    return {ids, find_time(df, columns["timestamp_column"], exclude=ids)}
