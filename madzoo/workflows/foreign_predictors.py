"""A forecaster as fev's ForecastingModel, and as a GluonTS predictor.

Neither library is a dependency, and nothing here imports them: the caller, who has them, hands over the class to build
on. What they pass in (``task``, ``dataset``) and ask for is their public interface.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from madzoo.errors import ConfigError
from madzoo.layers.forecaster import Forecaster

__all__ = ["GluonTSPredictor", "fev_model"]


def fev_model(model: Forecaster, base: type, *, name: str, trained_on_datasets: Sequence[str] = ()) -> Any:
    """Returns an instance of fev's ``ForecastingModel`` that answers with a forecaster, each target by itself.

    The point forecast is the median. Covariates of a task are not used.

    Args:
        model: any forecaster.
        base: ``fev.ForecastingModel``.
        name: the ``model_name`` of the results; fev allows each name once.
        trained_on_datasets: configurations of ``autogluon/fev_datasets`` that the model was trained on.

    Raises:
        ConfigError: when base is not that class.

    Source: src/fev/model.py of github.com/autogluon/fev @ 1bc95fd.

    Example:
        >>> import fev, madzoo  # doctest: +SKIP
        >>> forecaster = madzoo.create_model("patch_s4d_small_672_168.zeroshot", pretrained=True)  # doctest: +SKIP
        >>> fev_model(forecaster, fev.ForecastingModel, name="patch_s4d").fit_predict(task)  # doctest: +SKIP
    """
    if not hasattr(base, "fit_predict"):
        raise ConfigError("base is no ForecastingModel.", asked=base, todo="fev.ForecastingModel")

    def fit_predict(self: Any, task: Any) -> list[dict[str, list[dict[str, Any]]]]:
        with self._record_inference_time():
            return [_window_predictions(model, task, window) for window in task.iter_windows()]

    members = {"model_name": name, "trained_on_datasets": list(trained_on_datasets), "_fit_predict": fit_predict}
    return type("MadzooModel", (base,), members)()


class GluonTSPredictor:
    """Answers as a GluonTS predictor: ``predict(dataset)`` yields a quantile forecast per entry, in order.

    Args:
        model: any forecaster.
        forecast_class: ``gluonts.model.forecast.QuantileForecast``.
        prediction_length: steps of a forecast; None: the model's.
        quantile_levels: what is given beside the mean; None: the model's levels.
        batch_size: series at a time; None: the model's choice.

    Raises:
        ConfigError: when a level lies outside the model's range.

    Source: ``gluonts.model.Predictor`` and ``QuantileForecast`` of GluonTS 0.17.
    """

    lead_time = 0

    def __init__(
        self,
        model: Forecaster,
        forecast_class: Any,
        *,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.forecast_class, self.batch_size = model, forecast_class, batch_size
        self.prediction_length = prediction_length or model.prediction_length
        self.quantile_levels = tuple(quantile_levels or model.quantile_levels)

    def predict(self, dataset: Iterable[Mapping[str, Any]], **_: Any) -> Iterator[Any]:
        """Yields forecasts of entries with ``target`` [T], ``start`` (a pandas Period) and, maybe, ``item_id``."""
        entries = list(dataset)
        if not entries:
            return
        series = [np.asarray(entry["target"], dtype="float64") for entry in entries]
        for one in series:
            if one.ndim != 1:
                todo = "gluonts.dataset.multivariate_grouper's opposite: one entry a series"
                raise ConfigError("an entry's target is a single series.", asked=one.shape, todo=todo)
        quantiles, mean = self.model.predict(
            series,
            prediction_length=self.prediction_length,
            quantile_levels=self.quantile_levels,
            batch_size=self.batch_size,
        )
        keys = [*map(str, self.quantile_levels), "mean"]
        for entry, one, q_HQ, mean_H in zip(entries, series, quantiles[:, :, 0], mean[:, :, 0], strict=True):
            yield self.forecast_class(
                forecast_arrays=np.concatenate([q_HQ.T.double().cpu(), mean_H.double().cpu()[None]]),
                start_date=entry["start"] + len(one),
                forecast_keys=keys,
                item_id=entry.get("item_id"),
            )


def _window_predictions(model: Forecaster, task: Any, window: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns, per target, each item's ``{"predictions": [...], "0.1": [...], ...}``."""
    past, _ = window.get_input_data()
    levels = sorted(task.quantile_levels)
    asked = levels if len(model.quantile_levels) > 1 else []
    answers = {}
    for target in task.target_columns:
        series = [np.asarray(values, dtype="float64") for values in past[target]]
        quantiles, _ = model.predict(series, prediction_length=task.horizon, quantile_levels=(*asked, 0.5))
        rows = quantiles[:, :, 0].double().cpu().numpy()
        answers[target] = [
            {"predictions": row[:, -1].tolist()}
            | {str(level): row[:, k if asked else -1].tolist() for k, level in enumerate(levels)}
            for row in rows
        ]
    return answers
