"""FlowState: S5 layers read a series point by point; its future is a function of time, sampled at any rate.

Each step is scaled by what was seen up to it and passes residual S5 blocks with whether it was observed. The state
after the last step gives the coefficients of one function for each quantile. One scale factor multiplies the steps of
every S5 and the distances at which the functions are sampled, so that a checkpoint serves every sampling rate. After
arXiv 2508.05287; blocks and sizes are this project's.

Axes: B series (batch times channels), L context, N prefixes, C channels, D d_model, H horizon, Q quantiles.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.causal_scaler import CausalScaled, CausalScaler, ScalerState
from madzoo.layers.flow_block import FlowBlock
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.functional_basis import BASES, FunctionalBasisDecoder
from madzoo.layers.linear import Linear
from madzoo.layers.season_grid import SEASONLESS
from madzoo.layers.series_reading import whole_number
from madzoo.layers.weight_decay import named_by_layers
from madzoo.models.series.direct import (
    NINE_LEVELS,
    DirectConfig,
    check_at_least_one,
    check_past_values,
    horizon_adapter,
    register_forecasters,
)
from madzoo.registry import MAX_DEPTH

__all__ = ["FlowState", "FlowStateConfig", "StreamState"]

MOST_STEPS = 2**20  # of one forecast: half a gigabyte of basis functions
STEPS_AT_A_TIME = 2**18  # of all channels together, so that long contexts of many series do not fill the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowStateConfig(DirectConfig):
    """Describes one FlowState.

    Attributes:
        context_length: steps of the past that a forecast looks at, at scale 1.
        prediction_length: the decoder's span: steps of the future that one forecast gives, at scale 1.
        quantile_levels: see :class:`DirectConfig`.
        d_model: channels of a step, D.
        depth: number of blocks.
        d_state: real dimension of the state of each S5.
        state_blocks: HiPPO blocks that it starts from; each has an even part of the state.
        expand: hidden width of the perceptrons, in multiples of d_model.
        basis: ``"legendre"`` or ``"fourier"``.
        num_functions: functions of the basis.
        base_seasonality: steps of a season at scale 1.
        dt_min, dt_max: range of the S5 steps at the start, at scale 1.
        dropout: probability of dropping an activation.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    d_model: int
    depth: int
    d_state: int
    state_blocks: int = 4
    expand: int = 3
    basis: str = "legendre"
    num_functions: int = 64
    base_seasonality: int = 24
    dt_min: float = 0.001
    dt_max: float = 0.1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        counts = ("d_model", "depth", "d_state", "state_blocks", "expand", "num_functions", "base_seasonality")
        check_at_least_one(self, *counts)
        if self.depth > MAX_DEPTH:
            raise ConfigError(f"depth is at most {MAX_DEPTH}.", todo="a depth below ten")
        if self.d_state % (2 * self.state_blocks):
            raise ConfigError("d_state is a multiple of 2 state_blocks.", asked=str(self))
        if self.basis not in BASES:
            raise ConfigError(f"no basis is named {self.basis!r}.", asked=self.basis, looked=", ".join(BASES))
        if not 0 < self.dt_min <= self.dt_max or not 0 <= self.dropout < 1:
            raise ConfigError("0 < dt_min <= dt_max and 0 <= dropout < 1 are needed.", asked=str(self))


class StreamState(NamedTuple):
    """Holds all that a stream of series needs to go on.

    Attributes:
        scaler: statistics so far, [B, C].
        blocks: the states of the S5 layers, complex [B, C, P] each.
    """

    scaler: ScalerState
    blocks: tuple[Tensor, ...]


class FlowState(Forecaster):
    """Forecasts quantiles of series of any sampling rate, each channel from its own past; causal.

    Args:
        config: see :class:`FlowStateConfig`.

    Attributes:
        scale_factor: steps of the config in a step of the series, 1 at first. It may be set at any time, and decides
            how many steps of the series ``context_length`` and ``prediction_length`` are.
        seasonality: steps of the series in a season, m; setting it sets ``scale_factor`` to base_seasonality / m, or to
            4 for m = 1, a series without a season. After setting ``scale_factor`` it is the nearest whole number.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units, sorted. Any L:
        cropped to the last context_length steps; time begins with the first observation among them, so a shorter past
        and one padded by missing steps are the same. Scaling is done in float64 and answers are in the wider of the
        input's and the parameters' dtype; everything between in the parameters' dtype.

    ``predict`` beyond ``prediction_length`` rolls out, see :func:`madzoo.layers.roll_out.roll_out`.

    Source: arXiv 2508.05287, section 3.

    Example:
        >>> model = FlowState(FlowStateConfig(context_length=48, prediction_length=24, d_model=4, depth=1, d_state=8))
        >>> model.seasonality = 12
        >>> model.scale_factor, model.context_length, model(torch.randn(2, 60, 3)).shape
        (2.0, 24, torch.Size([2, 12, 3, 1]))
    """

    task = "time-series-forecasting"
    channels_meet = False
    asks_season = True
    short_is_padded = True
    head_names = ("decoder.projection",)

    def __init__(self, config: FlowStateConfig) -> None:
        super().__init__()
        self.config = config
        self.quantile_levels = config.quantile_levels
        self.num_channels = None
        self.scaler = CausalScaler()
        self.embed = Linear(2, config.d_model)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5, elementwise_affine=False)
        self.decoder = FunctionalBasisDecoder(
            config.d_model,
            span=config.prediction_length,
            num_functions=config.num_functions,
            num_quantiles=len(config.quantile_levels),
            basis=config.basis,
        )
        self.scale_factor = 1.0

    @property
    def scale_factor(self) -> float:
        """Steps of the configuration in a step of the series."""
        return self._scale_factor

    @scale_factor.setter
    def scale_factor(self, value: float) -> None:
        self._rescale(value, None)

    @property
    def seasonality(self) -> int:
        """Steps of the series in a season."""
        return self._seasonality

    @seasonality.setter
    def seasonality(self, value: int) -> None:
        value = whole_number("seasonality", value)
        self._rescale(SEASONLESS if value == 1 else self.config.base_seasonality / value, value)

    def _rescale(self, scale: float, seasonality: int | None) -> None:
        span, context = self.config.prediction_length, self.config.context_length
        number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not number or not 0 < scale <= span:
            raise ConfigError(
                "scale_factor is a number above 0, and at most the decoder's span: a step has to fit into it.",
                asked=f"scale_factor={scale!r}" + (f" for seasonality={seasonality}" if seasonality else ""),
                looked=f"prediction_length={span}",
                todo="base_seasonality divided by the steps of a season",
            )
        if span / scale > MOST_STEPS:
            raise ConfigError(
                f"a forecast has at most {MOST_STEPS} steps.",
                asked=f"scale_factor={scale!r}" + (f" for seasonality={seasonality}" if seasonality else ""),
                looked=f"prediction_length={span} at scale 1, so {span / scale:.3g} steps",
                todo=f"scale_factor={span / MOST_STEPS:.3g} or more: a series with fewer steps in a season",
            )
        self._scale_factor = float(scale)
        self._seasonality = seasonality or max(1, round(self.config.base_seasonality / scale))
        # The slack undoes what the division rounds down: 24 seasons are 24 seasons at every rate.
        self.context_length = max(1, math.floor(context / scale * (1 + 1e-12)))
        self.prediction_length = max(1, math.floor(span / scale * (1 + 1e-12)))

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.

        Cost: time and memory O(B C L).
        """
        return self._forecasts(past_values, 1).squeeze(1)

    def forward_prefixes(self, past_values: Tensor, *, shortest: int) -> Tensor:
        """Forecasts from every prefix at once: many targets for one reading of the series, for training.

        The last context_length steps are read; the n-th answer equals ``forward`` of their first n + shortest steps.

        Args:
            past_values: as in :meth:`forward`.
            shortest: steps of the first prefix that is forecast from, 1 for all of them.

        Shapes: [B, L, C] -> [B, N, H, C, Q] with N = L - shortest + 1.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.
            ConfigError: when shortest is below 1 or above L.

        Source: arXiv 2508.05287, section 3 (parallel forecasts).
        """
        check_past_values(past_values, None)
        length = min(past_values.shape[1], self.context_length)
        if not 1 <= shortest <= length:
            raise ConfigError(f"shortest lies between 1 and the {length} steps read.", asked=f"shortest={shortest}")
        return self._forecasts(past_values, length - shortest + 1)

    def init_state(self, batch_size: int) -> StreamState:
        """Returns the state of series of which nothing was seen; their number of channels shows at the first step.

        Raises:
            ConfigError: when batch_size is no whole number, or below 1.
        """
        batch_size = whole_number("batch_size", batch_size)
        home = self.embed.weight.device
        blocks = (cast(FlowBlock, block).init_state(batch_size).unsqueeze(1) for block in self.blocks)
        return StreamState(self.scaler.init_state((batch_size, 1), device=home), tuple(blocks))

    def step(self, x_t: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Takes one observation more and forecasts from it, in constant memory.

        Equals ``forward`` of all steps since :meth:`init_state`, as long as these are at most context_length; nothing
        is cropped here. A stream keeps one scale_factor.

        Shapes: x_t [B, C], NaN = missing -> quantiles [B, H, C, Q], the next state.

        Raises:
            ShapeError: when x_t has other axes or other series and channels than the state.

        Cost: O(B C), whatever came before.
        """
        batch, channels = self._check_step(x_t, state)
        dtype = torch.promote_types(x_t.dtype, self.embed.weight.dtype)
        spread = [part.expand(batch, channels).flatten() for part in state.scaler]
        scaled, statistics = self.scaler.step(x_t.flatten().to(dtype), ScalerState(*spread))
        x_BD, active_B, states = self._embed(scaled), self._active(scaled), []
        for block, held in zip(self.blocks, state.blocks, strict=True):
            held = held.expand(-1, channels, -1).flatten(0, 1)
            x_BD, held = cast(FlowBlock, block).step(x_BD, active_B, scale=self.scale_factor, state=held)
            states.append(held.unflatten(0, (batch, channels)))
        y_BHQ = self._decode(x_BD, scaled.location, scaled.scale, dtype)
        kept = ScalerState(*(part.unflatten(0, (batch, channels)) for part in statistics))
        return y_BHQ.unflatten(0, (batch, channels)).transpose(1, 2), StreamState(kept, tuple(states))

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort: those that the S5 layers name."""
        return named_by_layers(self)

    def _predict(
        self,
        series: Sequence[Tensor] | Tensor,
        covariates: Mapping[str, Sequence[Tensor]],
        horizon: int,
        levels: Sequence[float],
        batch_size: int,
        on_batch: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor]:
        longest = max(part.shape[0] * part.shape[1] for part in series)
        size = min(batch_size, max(1, STEPS_AT_A_TIME // longest))
        return super()._predict(series, covariates, horizon, levels, size, on_batch)

    def _forecasts(self, past_values: Tensor, prefixes: int) -> Tensor:
        """Forecasts from the last prefixes, [B, N, H, C, Q]."""
        channels = check_past_values(past_values, None)
        dtype = torch.promote_types(past_values.dtype, self.embed.weight.dtype)
        scaled = self.scaler(past_values[:, -self.context_length :].mT.flatten(0, 1).to(dtype))
        x_BLD, active_BL = self._embed(scaled), self._active(scaled)
        for block in self.blocks:  # what comes after the last S5 is needed where a forecast begins, nowhere else
            last = prefixes if block is self.blocks[-1] else None
            x_BLD = block(x_BLD, active_BL, scale=self.scale_factor, last=last)
        location_BN, scale_BN = scaled.location[:, -prefixes:], scaled.scale[:, -prefixes:]
        y_BNHQ = self._decode(x_BLD, location_BN, scale_BN, dtype)
        return y_BNHQ.unflatten(0, (-1, channels)).permute(0, 2, 3, 1, 4)

    def _embed(self, scaled: CausalScaled) -> Tensor:
        pair = torch.stack([scaled.values, scaled.observed.to(scaled.values.dtype)], dim=-1)
        return self.embed(pair.to(self.embed.weight.dtype))

    def _active(self, scaled: CausalScaled) -> Tensor:
        return scaled.seen.to(self.embed.weight.dtype)

    def _decode(self, x: Tensor, location: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Turns states [..., D] into quantiles [..., H, Q] in units."""
        y = self.decoder(self.norm(x), steps=self.prediction_length, scale=self.scale_factor)
        units = {"location": location[..., None, None], "scale": scale[..., None, None]}
        return self.scaler.restore(y, **units, dtype=dtype)

    def _check_step(self, x_t: Tensor, state: StreamState) -> tuple[int, int]:
        if not isinstance(x_t, Tensor) or not isinstance(state, StreamState):
            raise ShapeError(
                "a step takes a tensor [B, C] and the state before it.",
                asked=f"{type(x_t).__name__} and {type(state).__name__}",
                todo="step(torch.as_tensor(x_t), init_state(batch_size)), then the state that each step returns",
            )
        held = state.scaler.count.shape
        found = f"{list(x_t.shape)} {x_t.dtype}, a state of {list(held)} series and channels"
        if x_t.ndim != 2 or x_t.shape[1] == 0 or not x_t.is_floating_point():
            raise ShapeError("x_t is a floating-point tensor [B, C] with C >= 1.", asked=found)
        if x_t.shape[0] != held[0] or held[1] not in (1, x_t.shape[1]):
            raise ShapeError("x_t does not fit the state.", asked=found, todo=f"init_state({x_t.shape[0]})")
        return x_t.shape[0], x_t.shape[1]


def _block(config: FlowStateConfig) -> FlowBlock:
    names = ("d_state", "state_blocks", "expand", "dt_min", "dt_max", "dropout")
    return FlowBlock(config.d_model, **{name: getattr(config, name) for name in names})


def _config(context: int, horizon: int, **sizes: Any) -> FlowStateConfig:
    return FlowStateConfig(
        context_length=context, prediction_length=horizon, quantile_levels=NINE_LEVELS, **sizes
    )  # fmt: skip


SIZES = {"small": {"d_model": 64, "depth": 3, "d_state": 64}, "base": {"d_model": 128, "depth": 6, "d_state": 128}}

register_forecasters(
    FlowState,
    "flowstate",
    {
        f"{size}_{context}_{horizon}": _config(context, horizon, **fields)
        for size, fields in SIZES.items()
        for context, horizon in ((512, 96), (672, 192))
    },
    adapt_weights=horizon_adapter(
        ("decoder.projection.weight", "decoder.projection.bias"),
        ("context_length", "prediction_length", "dropout", "dt_min", "dt_max"),
    ),
    paper="2508.05287",
)
