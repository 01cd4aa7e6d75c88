"""The season that a forecaster is told: the caller's, else what is usual for the step of a table."""

import logging
from collections.abc import Sequence

from madzoo.data.series import Series
from madzoo.data.time_grid import season_of
from madzoo.layers.forecaster import Forecaster, with_seasonality

__all__ = ["with_season"]

logger = logging.getLogger(__name__)


def with_season(model: Forecaster, seasonality: int | None, series: Sequence[Series]) -> Forecaster:
    """Returns a model with the season it is told, sharing the weights; the one given keeps its own.

    A model that asks for its season is told that of the first series' step, where the caller says none.

    Raises:
        ConfigError: when seasonality is not a whole number, at least 1.
    """
    if seasonality is None:
        return with_seasonality(model, season_of(series[0].step)) if model.asks_season and series else model
    if not hasattr(model, "seasonality"):
        logger.warning("%s finds seasons itself: seasonality=%s is not used.", type(model).__name__, seasonality)
    return with_seasonality(model, seasonality)
