"""The season that a forecaster is told: the caller's, else what is usual for the step of a series."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from madzoo.data.series import Series
from madzoo.data.time_grid import season_of
from madzoo.layers.forecaster import Forecaster, with_seasonality

__all__ = ["by_season", "with_season"]

logger = logging.getLogger(__name__)


def with_season(model: Forecaster, seasonality: int | None, series: Iterable[Series]) -> Forecaster:
    """Returns a model with the season it is told, sharing the weights; the one given keeps its own.

    A model that asks for its season is told that of most series' steps, where the caller says none; where they differ,
    a warning says so.

    Raises:
        ConfigError: when seasonality is not a whole number, at least 1.
    """
    if seasonality is None:
        seasons = Counter(season_of(one.step) for one in series) if model.asks_season else Counter()
        if len(seasons) > 1:
            logger.warning(
                "the series have different seasons (steps of a season: number of series): %s; the most common is taken"
                " for all. seasonality=... decides otherwise.",
                dict(seasons.most_common()),
            )
        return with_seasonality(model, seasons.most_common(1)[0][0]) if seasons else model
    if not hasattr(model, "seasonality"):
        logger.warning("%s finds seasons itself: seasonality=%s is not used.", type(model).__name__, seasonality)
    return with_seasonality(model, seasonality)


def by_season(
    model: Forecaster, seasonality: int | None, series: Sequence[Series]
) -> list[tuple[Forecaster, list[int]]]:
    """Returns the model with every season it is told, and the places of the series that it is told it for.

    Raises:
        ConfigError: when seasonality is not a whole number, at least 1.
    """
    if seasonality is not None or not model.asks_season:
        return [(with_season(model, seasonality, ()), list(range(len(series))))]
    places: dict[int, list[int]] = {}
    for place, one in enumerate(series):
        places.setdefault(season_of(one.step), []).append(place)
    return [(with_seasonality(model, season), found) for season, found in places.items()]
