"""Baselines that stand beside every forecast: the last value, the last season, and a linear map.

They are forecasters of one quantile, so that everything that takes a model takes them.

Axes: B windows, L context, H horizon, C channels, K seasons, S steps of a season.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from madzoo.errors import ConfigError
from madzoo.evaluation.forecasting import ForecastWindows, evaluate_ltsf
from madzoo.layers.forecaster import Forecaster

__all__ = ["LinearForecaster", "SeasonalNaive", "fit_linear", "ltsf_baselines"]

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
BATCH = 256


class SeasonalNaive(Forecaster):
    """Repeats the last season; with ``seasonality=1``, the last value.

    A missing value is taken from the season before, then from the last observation, then 0. Quantiles are normal,
    ``last season + z_q sigma sqrt(1 + floor(h / m))`` for h = 0, 1, ...; sigma is the standard deviation of the
    differences between observations a season apart (0 without two of them).

    Args:
        seasonality: steps of a season, m.
        context_length, prediction_length, quantile_levels: see :class:`Forecaster`; by default the median alone.

    Raises:
        ConfigError: when seasonality is below 1.

    Example:
        >>> naive = SeasonalNaive(seasonality=2, context_length=4, prediction_length=3)
        >>> naive(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])).flatten().tolist()
        [3.0, 4.0, 3.0]
    """

    def __init__(
        self,
        *,
        seasonality: int,
        context_length: int,
        prediction_length: int,
        quantile_levels: Sequence[float] = (0.5,),
    ) -> None:
        super().__init__()
        if seasonality < 1:
            raise ConfigError("seasonality is at least 1.", asked=seasonality)
        self.quantile_levels = tuple(quantile_levels)
        self.seasonality = seasonality
        self.context_length = context_length
        self.prediction_length = prediction_length

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns the repeated season.

        Shapes: past_values [B, L, C] -> [B, H, C, Q].
        """
        season = self.seasonality
        lead = -past_values.shape[1] % season
        seasons_BKSC = pad(past_values, (0, 0, lead, 0), value=torch.nan).unflatten(1, (-1, season))
        last_BSC = _last_observed(seasons_BKSC, fallback=_last_observed(past_values).unsqueeze(1))
        steps_H = torch.arange(self.prediction_length, device=past_values.device)
        point_BHC1 = last_BSC[:, steps_H % season].unsqueeze(-1)
        if self.quantile_levels == (0.5,):
            return point_BHC1
        levels = torch.tensor(self.quantile_levels, dtype=torch.float64, device=past_values.device)
        widths_HQ = (1 + steps_H // season).sqrt().unsqueeze(-1) * torch.special.ndtri(levels)
        sigma_BC = _deviation(past_values[:, season:] - past_values[:, :-season])
        return point_BHC1 + (sigma_BC[:, None, :, None] * widths_HQ[:, None, :]).to(point_BHC1.dtype)


class LinearForecaster(Forecaster):
    """Maps the context to the horizon linearly after subtracting the context's mean (the RLinear class of models).

    Args:
        weight: [H, L].
    """

    quantile_levels = (0.5,)
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.prediction_length, self.context_length = weight.shape
        self.register_buffer("weight", weight)

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns the linear forecast.

        Shapes: past_values [B, L, C] -> [B, H, C, 1].
        """
        past = pad(past_values, (0, 0, self.context_length - past_values.shape[1], 0), value=torch.nan)
        centred, mean = _centre(past.to(self.weight.dtype))
        return (self.weight @ centred + mean).unsqueeze(-1).to(past_values.dtype)


def fit_linear(
    train: ForecastWindows, validation: ForecastWindows, *, ridges: Sequence[float] = RIDGES
) -> LinearForecaster:
    """Fits a linear forecaster by least squares on all training windows, in closed form and float64.

    All channels share one map. The ridge, relative to the mean squared input, is the one with the lowest MSE on the
    validation windows.

    Raises:
        DataError: when the validation windows hold no target.

    Cost: O(N C L (L + H) + L^3) operations.

    Source: arXiv 2403.14587 (closed-form linear forecasting models).
    """
    gram_LL, cross_LH = _normal_equations(train)
    values_L, vectors_LL = torch.linalg.eigh(gram_LL)
    fits = []
    for ridge in ridges:
        damped = values_L.clamp(min=0) + ridge * values_L.mean()
        fits.append(LinearForecaster((vectors_LL / damped @ (vectors_LL.mT @ cross_LH)).mT.contiguous()))
    return min(fits, key=lambda fit: evaluate_ltsf(fit, validation, batch_size=BATCH).metrics["mse"])


def ltsf_baselines(
    train: ForecastWindows, validation: ForecastWindows, test: ForecastWindows, *, seasonality: int
) -> dict[str, dict[str, float]]:
    """Returns the test metrics of the last value, the last season and the linear map.

    The linear map sees the context of the given windows; the naive ones need at most one season of it.
    """
    linear = fit_linear(train, validation)
    lengths: dict[str, Any] = {"context_length": linear.context_length, "prediction_length": test.prediction_length}
    models = {
        "last_value": SeasonalNaive(seasonality=1, **lengths),
        "seasonal_naive": SeasonalNaive(seasonality=seasonality, **lengths),
        "linear": linear,
    }
    return {name: evaluate_ltsf(model, test, batch_size=BATCH).metrics for name, model in models.items()}


def _normal_equations(windows: ForecastWindows) -> tuple[Tensor, Tensor]:
    gram_LL, cross_LH = torch.zeros(()), torch.zeros(())
    for index in torch.arange(len(windows)).split(BATCH):
        past, future = windows[index]
        past_BLC, mean = _centre(past.double())
        x, y = past_BLC.mT.flatten(0, 1), (future.double() - mean).nan_to_num().mT.flatten(0, 1)
        gram_LL, cross_LH = gram_LL + x.mT @ x, cross_LH + x.mT @ y
    return gram_LL, cross_LH


def _centre(past_BLC: Tensor) -> tuple[Tensor, Tensor]:
    mean = past_BLC.nanmean(1, keepdim=True).nan_to_num()
    return (past_BLC - mean).nan_to_num(), mean


def _deviation(change_BLC: Tensor) -> Tensor:
    """The standard deviation along axis 1 of what was observed; 0 where nothing was."""
    change = change_BLC.double()
    return (change - change.nanmean(1, keepdim=True)).square().nanmean(1).sqrt().nan_to_num()


def _last_observed(x: Tensor, *, fallback: Tensor | None = None) -> Tensor:
    """The last finite value along axis 1, else the fallback, else 0."""
    observed = x.isfinite()
    order = torch.arange(1, x.shape[1] + 1, device=x.device).reshape(1, -1, *[1] * (x.ndim - 2))
    last = (observed * order).argmax(1, keepdim=True)
    value = x.gather(1, last).squeeze(1).nan_to_num()
    return torch.where(observed.any(1), value, 0 if fallback is None else fallback)
