"""What every forecaster answers: :meth:`Forecaster.predict`, for any horizon, any levels and ragged input.

Axes: B series, L context, C channels, H horizon, Q quantiles.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from madzoo.errors import DataError, NotCausalError
from madzoo.layers.covariate_reading import COVARIATES, check_covariates, read_covariates, stack_covariates
from madzoo.layers.quantile_levels import check_levels, interpolate_quantiles
from madzoo.layers.roll_out import roll_out
from madzoo.layers.series_batches import batch_series
from madzoo.layers.series_reading import read_past, whole_number

__all__ = ["COVARIATES", "Forecaster", "with_seasonality"]

CHANNELS_AT_A_TIME = 512


class Forecaster(nn.Module):
    """Gives a module ``forward(past_values [B, L, C]) -> quantiles [B, H, C, Q]`` the protocol of a forecaster.

    A subclass sets the four attributes and ``forward``; NaN means missing; values are in the units of the input. Any
    context from one step on is answered, also one without an observation.

    Attributes:
        context_length: steps of the past the model looks at; longer input is cropped, shorter is padded by NaN.
        prediction_length: steps of the future one forward pass gives.
        quantile_levels: strictly increasing levels in (0, 1).
        num_channels: number of channels the model is made for, None for any.
        supports_covariates: which of :data:`COVARIATES` the model takes beside the past; none by default.
        asks_season: whether the model must be told how many steps a season has, see :func:`with_seasonality`.
        short_is_padded: whether missing steps before the first of a series change nothing, so that ``predict`` may pad
            series of different lengths and forecast them together; False where a model has not said so.
        head_names: modules or parameters that read the forecast out, see :meth:`head_parameters`.
    """

    context_length: int
    prediction_length: int
    quantile_levels: tuple[float, ...]
    num_channels: int | None = None
    supports_covariates: frozenset[str] = frozenset()
    asks_season: bool = False
    short_is_padded: bool = False
    head_names: ClassVar[tuple[str, ...]] = ("head",)

    def predict(
        self,
        past_values: Tensor | Sequence[Any],
        *,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] | None = None,
        past_covariates: Tensor | Sequence[Any] | None = None,
        future_covariates: Tensor | Sequence[Any] | None = None,
        static_covariates: Tensor | Sequence[Any] | None = None,
        batch_size: int | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forecasts, without gradients and in evaluation mode.

        A shorter horizon than the model's is cut. A longer one is rolled out, every quantile path as a past of its own,
        so that later steps contain the uncertainty of earlier ones: see :func:`madzoo.layers.roll_out.roll_out`.
        Levels between the model's are interpolated linearly; levels outside its range are refused.

        Args:
            past_values: [B, L, C], or a list of [L] or [L, C] arrays, tensors or lists of different lengths. What
                is no tensor or array is read in float64; what an array masks is missing. The forecast of a series
                depends on no other's: shorter ones are padded to the length of others only where that changes nothing
                (``short_is_padded``).
            prediction_length: steps to forecast; None: the model's own.
            quantile_levels: levels to return, in this order; None: the model's own.
            past_covariates: known as long as the past, [L, K] for each series; for a model that supports ``"past"``.
            future_covariates: known at the steps to forecast, [H, K] for each series; for ``"known_future"``.
            static_covariates: [K] for each series; for ``"static"``. All three reach ``forward`` by these names, in
                their own dtype; NaN means missing.
            batch_size: series at a time, of memory and speed alone; None: as many as have 512 channels together.
            on_batch: called after every batch with the number of series done and of all.

        Returns:
            Quantiles [B, H, C, Q], which never cross, and mean [B, H, C], which is the average over the model's
            quantiles. Finite for any finite or missing input.

        Raises:
            ShapeError: when the input is empty, has other axes, or channels that differ or do not fit the model.
            DataError: when series or covariates hold an infinity or are not numeric, or when the model's answer is not
                finite.
            ConfigError: when horizon or batch_size is below 1, a level lies outside the model's range, the model does
                not support the covariates, or a roll-out would need covariates that nobody knows.

        Example:
            >>> from madzoo.factory import create_model
            >>> model = create_model("patch_s4d_nano_512_96")
            >>> quantiles, mean = model.predict([[1.0, 2.0, float("nan"), 4.0], list(range(600))])
            >>> quantiles.shape, mean.shape
            (torch.Size([2, 96, 1, 1]), torch.Size([2, 96, 1]))
        """
        horizon = self.prediction_length if prediction_length is None else prediction_length
        horizon = whole_number("prediction_length", horizon)
        asked = self.quantile_levels if quantile_levels is None else tuple(quantile_levels)
        check_levels(self.quantile_levels, asked)
        series = read_past(past_values, num_channels=self.num_channels, context_length=self.context_length)
        kinds = zip(COVARIATES, (past_covariates, future_covariates, static_covariates), strict=True)
        given = {kind: values for kind, values in kinds if values is not None}
        check_covariates(self, given, horizon)
        lengths = [len(one) for one in series]
        covariates = read_covariates(given, lengths, horizon=horizon, context_length=self.context_length)
        size = max(1, CHANNELS_AT_A_TIME // series[0].shape[1]) if batch_size is None else batch_size
        size = whole_number("batch_size", size)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._predict(series, covariates, horizon, asked, size, on_batch)
        finally:
            self.train(was_training)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Returns by name what fine-tuning of the head alone trains: all of a model that is one linear map."""
        ends = [(name, f"{name}.") for name in self.head_names]
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if any(name == end or name.startswith(below) for end, below in ends)
        }

    def init_state(self, batch_size: int) -> Any:
        """Refuses: overridden by causal models.

        Raises:
            NotCausalError: always.
        """
        raise self._not_causal()

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Refuses: overridden by causal models.

        Raises:
            NotCausalError: always.
        """
        raise self._not_causal()

    def _not_causal(self) -> NotCausalError:
        return NotCausalError(
            f"{type(self).__name__} cannot be stepped: its scaler sees the whole context before the first step.",
            todo="predict(past_values), again for every new observation",
        )

    def _predict(
        self,
        series: Sequence[Tensor] | Tensor,
        covariates: Mapping[str, Sequence[Tensor]],
        horizon: int,
        levels: Sequence[float],
        batch_size: int,
        on_batch: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor]:
        home = next(chain(self.parameters(), self.buffers()), torch.empty(0)).device
        parts, means, order = [], [], []
        for index, past in batch_series(series, batch_size, pad=self.short_is_padded):
            if covariates:
                beside = stack_covariates(covariates, index, past.shape[1], home)
                quantiles = self(past.to(home), **beside)[:, :horizon].sort(-1).values
            else:
                quantiles = self._roll_out(past.to(home), horizon)
            _check_finite(quantiles, index)
            parts.append(interpolate_quantiles(quantiles, self.quantile_levels, levels))
            means.append(_mean(quantiles))
            order += index
            if on_batch is not None:
                on_batch(len(order), len(series))
        place = torch.tensor(order, device=home).argsort()
        return torch.cat(parts)[place], torch.cat(means)[place]

    def _roll_out(self, past: Tensor, horizon: int) -> Tensor:
        """Returns sorted quantiles [B, horizon, C, Q]; overridden by models that answer any horizon at once."""
        return roll_out(self, past, horizon=horizon, context_length=self.context_length, levels=self.quantile_levels)


def with_seasonality(model: Forecaster, seasonality: int) -> Forecaster:
    """Returns a model that asks for its season with this one; the weights are shared, the one given keeps its own.

    A model without a ``seasonality`` finds seasons itself and is returned as it is.

    Raises:
        ConfigError: when seasonality is not a whole number, at least 1.
    """
    seasonality = whole_number("seasonality", seasonality)
    if not hasattr(model, "seasonality"):
        return model
    told: Any = copy.copy(model)
    told.seasonality = seasonality
    return told


def _check_finite(quantiles: Tensor, index: Sequence[int]) -> None:
    good = quantiles.isfinite().flatten(1).all(1)
    if not good.all():
        places = [index[i] for i in (~good).nonzero().flatten().tolist()]
        raise DataError(
            "the model's forecast is not finite, though the series are.",
            asked=f"{len(places)} of the {len(index)} series of a batch, at {places[:5]}",
            todo="finite weights, float64 (model.double()), or series and covariates in smaller units",
        )


def _mean(quantiles: Tensor) -> Tensor:
    # Divided first and kept between the outer quantiles, so that the largest numbers of the dtype do not overflow.
    mean = (quantiles / quantiles.shape[-1]).sum(-1)
    return mean.clamp(quantiles.amin(-1), quantiles.amax(-1))
