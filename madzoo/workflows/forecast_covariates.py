"""What a forecast is asked to use beside the past, brought to the form in which the model takes it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from madzoo.data.columns import column_names, find_ids, find_time, named_columns
from madzoo.data.covariates import future_columns, read_future, read_past, read_static
from madzoo.data.series import Series
from madzoo.errors import ConfigError, DataError
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.covariate_regression import fit_covariates

__all__ = ["Covariates", "read_covariates"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Covariates:
    """Names the covariates of a forecast.

    Attributes:
        past, static: columns of the table.
        future: table of the steps to forecast, or None; its columns beside id and time are known-future covariates.
        regression: whether they are used by a regression outside of the model.
    """

    past: Sequence[str]
    static: Sequence[str]
    future: pd.DataFrame | None
    regression: bool

    @classmethod
    def asked(cls, *, past: Any, static: Any, future: Any, regression: bool) -> "Covariates":
        """Reads what a caller asks for.

        Raises:
            ConfigError: when a list of columns is none, or a regression has no future.
            DataError: when the future is no data frame, has no rows, or two columns of one name.
        """
        lists = {"past": past, "static": static}
        for name, names in lists.items():
            if isinstance(names, str) or not isinstance(names, Iterable):
                raise ConfigError(f"{name}_covariates is a list of columns.", asked=repr(names))
        if regression and future is None:
            raise ConfigError(
                "a regression on covariates needs their future.",
                asked="covariate_regression=True",
                todo="future_df=... (--future FILE)",
            )
        found = {name: column_names(names, f"{name}_covariates") for name, names in lists.items()}
        return cls(future=None if future is None else _future_table(future), regression=regression, **found)

    def future_names(self, columns: dict[str, str]) -> list[str]:
        """Returns the columns of the future; empty ones, such as a target's place, are none."""
        if self.future is None:
            return []
        empty = {name for name in self.future if pd.Series(self.future[name]).isna().all()}
        return [name for name in future_columns(self.future, **columns) if name not in empty]

    def check(self, model: Forecaster, columns: dict[str, str]) -> None:
        """Refuses covariates that the model cannot use.

        Raises:
            ConfigError: with the columns, and what to do.
            DataError: when a regression has none to use.
        """
        known = self.future_names(columns)
        if self.regression and not known:
            raise DataError(
                "future_df holds no covariate: every column beside id and time is empty, or there is none.",
                asked="covariate_regression=True",
                looked=f"columns {', '.join(self.future)}" if self.future is not None else None,
                todo="a column of known values at the steps to forecast, which the table of the past has too",
            )
        known = [] if self.regression else known
        kinds = {"past": list(self.past), "known_future": known, "static": list(self.static)}
        refused = {kind: names for kind, names in kinds.items() if names and kind not in model.supports_covariates}
        if not refused:
            return
        source = {"past": "past_covariates", "static": "static_covariates", "known_future": "future_df's columns"}
        also = ", or covariate_regression=True" if "known_future" in refused else ""
        found = "; ".join(f"{kind.replace('_', '-')}: {', '.join(names)}" for kind, names in refused.items())
        raise ConfigError(
            f"{type(model).__name__} does not support these covariates: {found}.",
            asked=[name for names in refused.values() for name in names],
            looked=f"it supports {', '.join(sorted(model.supports_covariates)) or 'none'}",
            todo=f"drop {' and '.join(source[kind] for kind in refused)}{also}",
        )


def _future_table(future: Any) -> pd.DataFrame:
    if not isinstance(future, pd.DataFrame):
        raise DataError("future_df is a pandas data frame.", asked=type(future).__name__, todo="pd.DataFrame(...)")
    if len(future) == 0:
        raise DataError("future_df has no rows.", todo="one row for each step to forecast")
    return named_columns(future)


def read_covariates(
    model: Forecaster,
    df: pd.DataFrame,
    series: Sequence[Series],
    asked: Covariates,
    *,
    horizon: int,
    columns: dict[str, str],
    firsts: Sequence[Series],
) -> tuple[list[np.ndarray], dict[str, Any], np.ndarray | None]:
    """Returns the past of every series, the options of ``predict``, and what to add to the forecasts [N, H].

    Args:
        model: decides what is supported.
        df: the table of the past.
        series: all that is forecast.
        asked: the covariates.
        horizon: steps to forecast.
        columns: names of the id and time columns.
        firsts: one series for each that the model forecasts (several, where it takes channels together).

    Raises:
        ConfigError: when the model does not support a kind of covariate that is asked for.
        DataError: when a column is missing, or future_df lacks a step or a value.
    """
    known = asked.future_names(columns)
    if known and {one.target_name for one in series} & set(known):
        raise ConfigError("future_df holds values of the target.", asked=known, todo="leave the target's cells empty")
    asked.check(model, columns)
    direct = [] if asked.regression else known
    values = [one.values for one in series]
    if asked.future is None and not asked.past and not asked.static:
        return values, {}, None
    ids = find_ids(df, columns["id_column"])
    time = find_time(df, columns["timestamp_column"], exclude=ids)
    options: dict[str, Any] = {}
    if asked.past or direct:
        options["past_covariates"] = read_past(df, firsts, [*asked.past, *direct], timestamp_column=time)
    if direct and asked.future is not None:
        options["future_covariates"] = read_future(asked.future, firsts, known, horizon, **columns)
    if asked.static:
        options["static_covariates"] = read_static(df, firsts, asked.static)
    if not asked.regression or asked.future is None:
        return values, options, None
    past = read_past(df, series, known, timestamp_column=time)
    future = read_future(asked.future, series, known, horizon, **columns)
    fits = [fit_covariates(one.values, x, x_future) for one, x, x_future in zip(series, past, future, strict=True)]
    rest = [one - fit.past for one, fit in zip(values, fits, strict=True)]
    return rest, options, np.stack([fit.future for fit in fits])
