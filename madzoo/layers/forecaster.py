"""What every forecaster answers: :meth:`Forecaster.predict`, for any horizon, any levels and ragged input.

Axes: B series, L context, C channels, H horizon, Q quantiles.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError, NotCausalError, ShapeError
from madzoo.layers.quantile_levels import check_levels, interpolate_quantiles
from madzoo.layers.roll_out import roll_out

__all__ = ["COVARIATES", "Forecaster", "with_seasonality"]

COVARIATES = ("past", "known_future", "static")
CHANNELS_AT_A_TIME = 512
_ARGUMENTS = {"past": "past_covariates", "known_future": "future_covariates", "static": "static_covariates"}


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
    """

    context_length: int
    prediction_length: int
    quantile_levels: tuple[float, ...]
    num_channels: int | None = None
    supports_covariates: frozenset[str] = frozenset()
    asks_season: bool = False

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
                is no tensor or array is read in float64. Each series meets the model at its own length, so that its
                forecast depends on no other's.
            prediction_length: steps to forecast; None: the model's own.
            quantile_levels: levels to return, in this order; None: the model's own.
            past_covariates: known as long as the past, [L, K] for each series; for a model that supports ``"past"``.
            future_covariates: known at the steps to forecast, [H, K] for each series; for ``"known_future"``.
            static_covariates: [K] for each series; for ``"static"``. All three reach ``forward`` by these names.
            batch_size: series at a time, of memory and speed alone; None: as many as have 512 channels together.
            on_batch: called after every batch with the number of series done and of all.

        Returns:
            Quantiles [B, H, C, Q], which never cross, and mean [B, H, C], which is the average over the model's
            quantiles. Finite for any finite or missing input.

        Raises:
            ShapeError: when the input is empty, has other axes, or channels that differ or do not fit the model.
            DataError: when the input holds an infinity or is not numeric.
            ConfigError: when horizon or batch_size is below 1, a level lies outside the model's range, the model does
                not support the covariates, or a roll-out would need covariates that nobody knows.

        Example:
            >>> from madzoo.factory import create_model
            >>> model = create_model("patch_s4d_nano_512_96")
            >>> quantiles, mean = model.predict([[1.0, 2.0, float("nan"), 4.0], list(range(600))])
            >>> quantiles.shape, mean.shape
            (torch.Size([2, 96, 1, 1]), torch.Size([2, 96, 1]))
        """
        horizon = _whole(
            "prediction_length", self.prediction_length if prediction_length is None else prediction_length
        )
        asked = self.quantile_levels if quantile_levels is None else tuple(quantile_levels)
        check_levels(self.quantile_levels, asked)
        series = self._read(past_values)
        kinds = zip(COVARIATES, (past_covariates, future_covariates, static_covariates), strict=True)
        covariates = self._covariates({kind: given for kind, given in kinds if given is not None}, series, horizon)
        size = max(1, CHANNELS_AT_A_TIME // series[0].shape[1]) if batch_size is None else batch_size
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._predict(series, covariates, horizon, asked, _whole("batch_size", size), on_batch)
        finally:
            self.train(was_training)

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
        for index, past in _batches(series, batch_size):
            if covariates:
                beside = {name: torch.stack([all_[i] for i in index]).to(home) for name, all_ in covariates.items()}
                quantiles = self(past.to(home), **beside)[:, :horizon].sort(-1).values
            else:
                quantiles = self._roll_out(past.to(home), horizon)
            parts.append(interpolate_quantiles(quantiles, self.quantile_levels, levels))
            means.append(_mean(quantiles))
            order += index
            if on_batch is not None:
                on_batch(len(order), len(series))
        if len(parts) == 1:
            return parts[0], means[0]
        place = torch.tensor(order, device=home).argsort()
        return torch.cat(parts)[place], torch.cat(means)[place]

    def _roll_out(self, past: Tensor, horizon: int) -> Tensor:
        """Returns sorted quantiles [B, horizon, C, Q]; overridden by models that answer any horizon at once."""
        return roll_out(self, past, horizon=horizon, context_length=self.context_length, levels=self.quantile_levels)

    def _covariates(
        self, given: Mapping[str, Any], series: Sequence[Tensor] | Tensor, horizon: int
    ) -> dict[str, list[Tensor]]:
        """Returns the covariates by the names that ``forward`` gives them, one tensor a series."""
        if strange := [kind for kind in given if kind not in self.supports_covariates]:
            raise ConfigError(
                f"{type(self).__name__} takes no {' and no '.join(strange)} covariates.",
                asked=", ".join(given),
                looked=f"it supports {', '.join(sorted(self.supports_covariates)) or 'none'}",
                todo="leave them out",
            )
        if given and horizon > self.prediction_length:
            raise ConfigError(
                "beyond the model's horizon covariates are unknown.",
                asked=f"prediction_length={horizon}",
                todo=f"prediction_length={self.prediction_length} or less",
            )
        lengths = {"past": [len(x) for x in series], "known_future": [horizon] * len(series), "static": None}
        found = {}
        for kind, values in given.items():
            each = [_floating(_as_tensor(x)).to(series[0].dtype) for x in values]
            wanted = lengths[kind]
            fits = len(each) == len(series) and len({x.shape[1:] if wanted else x.shape for x in each}) == 1
            if kind == "past" and fits:
                each = [x[-self.context_length :] for x in each]
            if not fits or (wanted and [len(x) for x in each] != wanted):
                raise ShapeError(
                    f"{kind} covariates do not stand beside past_values.", asked=[list(x.shape) for x in each[:5]]
                )
            found[_ARGUMENTS[kind]] = each
        return found

    def _read(self, past_values: Tensor | Sequence[Any]) -> Sequence[Tensor] | Tensor:
        """Returns checked and cropped series of one dtype."""
        if isinstance(past_values, Tensor):
            if past_values.ndim != 3:
                raise ShapeError("past_values is a tensor [B, L, C].", asked=list(past_values.shape))
            series: Any = _floating(past_values)
        else:
            series = [_as_series(x) for x in past_values]
        if len(series) == 0 or any(x.numel() == 0 for x in series):
            raise ShapeError("past_values is empty: a forecast needs a series of at least one step.")
        if len({x.shape[1] for x in series}) > 1 or self.num_channels not in (None, series[0].shape[1]):
            found = sorted({x.shape[1] for x in series})
            raise ShapeError("the channels of past_values differ, or do not fit the model.", asked=found)
        if any(x.isinf().any() for x in ([series] if isinstance(series, Tensor) else series)):
            raise DataError("past_values holds an infinite value.", todo="NaN where a value is missing")
        if isinstance(series, Tensor):
            return series[:, -self.context_length :]
        dtype = max((x.dtype for x in series), key=lambda kind: torch.finfo(kind).bits)
        return [x[-self.context_length :].to(dtype) for x in series]


def with_seasonality(model: Forecaster, seasonality: int) -> Forecaster:
    """Returns a model that asks for its season with this one; the weights are shared, the one given keeps its own.

    A model without a ``seasonality`` finds seasons itself and is returned as it is.

    Raises:
        ConfigError: when seasonality is not a whole number, at least 1.
    """
    _whole("seasonality", seasonality)
    if not hasattr(model, "seasonality"):
        return model
    told: Any = copy.copy(model)
    told.seasonality = seasonality
    return told


def _batches(series: Sequence[Tensor] | Tensor, size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Yields places and series [B, L, C] of equal length, as many as ``size`` at a time."""
    if isinstance(series, Tensor):
        for start in range(0, len(series), size):
            part = series[start : start + size]
            yield list(range(start, start + len(part))), part
        return
    by_length: dict[int, list[int]] = {}
    for place, one in enumerate(series):
        by_length.setdefault(len(one), []).append(place)
    for places in by_length.values():
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            yield chosen, torch.stack([series[place] for place in chosen])


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is a whole number, at least 1.", asked=value)
    return value


def _as_tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    x = x.to_numpy() if hasattr(x, "to_numpy") else x
    # A copy, for pandas' arrays are read-only; and plain numbers are doubles, which torch would narrow.
    return torch.tensor(x, dtype=None if hasattr(x, "dtype") else torch.float64)


def _as_series(x: Any) -> Tensor:
    try:
        series = _as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError("a series is not an array of numbers.", asked=f"{type(x).__name__}: {error}") from error
    if series.ndim not in (1, 2):
        raise ShapeError("a series is [L] or [L, C].", asked=list(series.shape))
    return _floating(series.unsqueeze(-1) if series.ndim == 1 else series)


def _mean(quantiles: Tensor) -> Tensor:
    # Divided first and kept between the outer quantiles, so that the largest numbers of the dtype do not overflow.
    mean = (quantiles / quantiles.shape[-1]).sum(-1)
    return mean.clamp(quantiles.amin(-1), quantiles.amax(-1))


def _floating(x: Tensor) -> Tensor:
    # Integers beyond 2**24 are no float32.
    return x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float64)
