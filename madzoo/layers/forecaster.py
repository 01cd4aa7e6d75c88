"""What every forecaster answers: :meth:`Forecaster.predict`, for any horizon, any levels and ragged input.

Axes: B series, L context, C channels, H horizon, Q quantiles.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from madzoo.errors import ConfigError, DataError, NotCausalError, ShapeError

__all__ = ["Forecaster"]


class Forecaster(nn.Module):
    """Gives a module ``forward(past_values [B, L, C]) -> quantiles [B, H, C, Q]`` the protocol of a forecaster.

    A subclass sets the four attributes and ``forward``; NaN means missing; values are in the units of the input.

    Attributes:
        context_length: steps of the past the model looks at; longer input is cropped, shorter is padded by NaN.
        prediction_length: steps of the future one forward pass gives.
        quantile_levels: strictly increasing levels in (0, 1).
        num_channels: number of channels the model is made for, None for any.
    """

    context_length: int
    prediction_length: int
    quantile_levels: tuple[float, ...]
    num_channels: int | None = None

    def predict(
        self,
        past_values: Tensor | Sequence[Any],
        *,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forecasts, without gradients and in evaluation mode.

        A shorter horizon than the model's is cut. A longer one is rolled out: the medians of one pass are appended to
        the past of the next, so the spread of later passes does not contain the uncertainty of earlier ones.
        Levels between the model's are interpolated linearly; levels outside its range are refused.

        Shapes:
            past_values: [B, L, C], or a list of [L] or [L, C] arrays, tensors or lists of different lengths;
            returns quantiles [B, H, C, Q] and mean [B, H, C], which is the average over the model's quantiles.
            Finite for any finite or missing input.

        Raises:
            ShapeError: when the input is empty, has other axes, or channels that differ or do not fit the model.
            DataError: when the input holds an infinity or is not numeric.
            ConfigError: when the horizon is below 1 or a level lies outside the model's range.
        """
        horizon = self.prediction_length if prediction_length is None else prediction_length
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise ConfigError("prediction_length is a whole number of steps, at least 1.", asked=horizon)
        weights_QM = _interpolation(self.quantile_levels, quantile_levels)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                quantiles = self._roll_out(self._stack(past_values), horizon)
        finally:
            self.train(was_training)
        return quantiles @ weights_QM.to(quantiles).mT, _mean(quantiles)

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

    def _roll_out(self, past: Tensor, horizon: int) -> Tensor:
        blocks = [self(past)]
        for _ in range(1, -(-horizon // self.prediction_length)):
            past = torch.cat([past, _median(blocks[-1], self.quantile_levels).to(past.dtype)], dim=1)
            blocks.append(self(past[:, -self.context_length :]))
        return torch.cat(blocks, dim=1)[:, :horizon]

    def _stack(self, past_values: Tensor | Sequence[Any]) -> Tensor:
        if isinstance(past_values, Tensor):
            if past_values.ndim != 3:
                raise ShapeError("past_values is a tensor [B, L, C].", asked=list(past_values.shape))
            series = list(past_values)
        else:
            series = [_as_series(x) for x in past_values]
        if not series or any(x.numel() == 0 for x in series):
            raise ShapeError("past_values is empty: a forecast needs a series of at least one step.")
        if len({x.shape[1] for x in series}) > 1 or self.num_channels not in (None, series[0].shape[1]):
            found = sorted({x.shape[1] for x in series})
            raise ShapeError("the channels of past_values differ, or do not fit the model.", asked=found)
        if any(x.isinf().any() for x in series):
            raise DataError("past_values holds an infinite value.", todo="NaN where a value is missing")
        cropped = [x[-self.context_length :] for x in series]
        length = max(len(x) for x in cropped)
        stacked = torch.stack([pad(x, (0, 0, length - len(x), 0), value=torch.nan) for x in map(_floating, cropped)])
        return stacked.to(next(chain(self.parameters(), self.buffers()), stacked).device)


def _as_series(x: Any) -> Tensor:
    try:
        series = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError("a series is not an array of numbers.", asked=f"{type(x).__name__}: {error}") from error
    if series.ndim not in (1, 2):
        raise ShapeError("a series is [L] or [L, C].", asked=list(series.shape))
    return series.unsqueeze(-1) if series.ndim == 1 else series


def _mean(quantiles: Tensor) -> Tensor:
    # Divided first and kept between the outer quantiles, so that the largest numbers of the dtype do not overflow.
    mean = (quantiles / quantiles.shape[-1]).sum(-1)
    return mean.clamp(quantiles.amin(-1), quantiles.amax(-1))


def _floating(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _median(quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    return quantiles[..., min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))]


def _interpolation(known: Sequence[float], asked: Sequence[float] | None) -> Tensor:
    """Returns the matrix [Q, M] that takes the model's M quantiles to the Q asked for."""
    known_M = torch.tensor(known, dtype=torch.float64)
    if asked is None:
        return torch.eye(len(known_M), dtype=torch.float64)
    asked_Q = torch.tensor(list(asked), dtype=torch.float64)
    if asked_Q.numel() == 0 or bool(((asked_Q < known_M[0] - 1e-9) | (asked_Q > known_M[-1] + 1e-9)).any()):
        raise ConfigError(
            "a quantile level lies outside the model's range, or none was given.",
            asked=list(asked),
            looked=f"the model's levels: {list(known)}",
            todo=f"quantile_levels={[known[0]] if len(known) == 1 else [known[0], 0.5, known[-1]]}, for instance",
        )
    upper = torch.searchsorted(known_M, asked_Q).clamp(1, max(1, len(known_M) - 1)).clamp(max=len(known_M) - 1)
    lower = (upper - 1).clamp(min=0)
    span = (known_M[upper] - known_M[lower]).clamp(min=1e-12)
    share = ((asked_Q - known_M[lower]) / span).clamp(0, 1)
    weights = torch.zeros(len(asked_Q), len(known_M), dtype=torch.float64)
    rows = torch.arange(len(asked_Q))
    weights[rows, lower] += 1 - share
    weights[rows, upper] += share
    return weights
