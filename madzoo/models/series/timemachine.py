"""TimeMachine: four Mamba blocks at two resolutions, over the features of a window and across them.

arXiv 2403.09898; code: Atik-Ahamed/TimeMachine. Every window is normalised; a linear map makes N features of its L
steps, a second one M < N of these. At each resolution one Mamba block reads a window's features as one token, and
another one reads them as a sequence of single numbers (channels independent); where the channels are mixed, both read
the channels as a sequence. What the lower resolution gives is mapped back to N, added to the features it came from,
and put beside what the higher one gives, for a linear map to the horizon.

One token carries no state: with independent channels ``A_log`` of ``mamba2`` and ``mamba3`` meets only zeros, and no
gradient reaches it. So it is published, and so it is kept.

Axes: B windows, L context, C channels, N features at the high and M at the low resolution, H horizon,
X rows: windows times channels where channels are independent, else windows; S positions: one, or channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.gauges import COLUMNS, Slices, basis, scale, vector_term
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import Mamba
from madzoo.layers.point_forecaster import PointForecaster
from madzoo.models.series.direct import check_at_least_one, horizon_adapter, register_forecasters
from madzoo.models.series.point_config import check_norm_and_dropout
from madzoo.shift_gauges import shift, unseen
from madzoo.stream_gauges import NormReader, zero_sum
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["AffinePerChannel", "TimeMachine", "TimeMachineConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeMachineConfig:
    """Describes one TimeMachine.

    Attributes:
        context_length: steps of the past, L (published: seq_len).
        prediction_length: steps of the future, H (pred_len).
        num_channels: channels that the affine norm is made for, C (enc_in); without it any number serves.
        n1, n2: features at the high and the low resolution, N and M.
        d_state, d_conv, expand: of the Mamba blocks (dconv, e_fact).
        mix_channels: read the channels as a sequence (True), or every channel for itself (False; ch_ind = 1).
        residual: add each resolution's features to what its blocks make of the lower one.
        affine_norm: scale and shift every normalised channel by learned numbers, and the forecast back (revin).
        norm_eps: what is added to a window's variance.
        dropout: probability of dropping a feature in front of the blocks.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    context_length: int = 96
    prediction_length: int = 96
    num_channels: int = 7
    n1: int = 512
    n2: int = 32
    d_state: int = 256
    d_conv: int = 2
    expand: int = 1
    mix_channels: bool = False
    residual: bool = True
    affine_norm: bool = True
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one(self, "context_length", "prediction_length", "num_channels", "n1", "n2")
        check_norm_and_dropout(self)


class TimeMachine(PointForecaster):
    """Forecasts every channel from its own window, or from those of all channels.

    Args:
        config: see :class:`TimeMachineConfig`.

    Shapes:
        past_values [B, L, C], NaN = missing -> [B, H, C, 1]. C is free where ``affine_norm`` is False; the order of the
        channels matters where they are mixed.

    Example:
        >>> config = TimeMachineConfig(prediction_length=12, num_channels=3, n1=16, n2=4, d_state=8)
        >>> TimeMachine(config)(torch.randn(2, 96, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    head_names = ("lin4",)

    def __init__(self, config: TimeMachineConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length, self.prediction_length = config.context_length, config.prediction_length
        self.norm_eps, self.detach_scale = config.norm_eps, config.affine_norm
        self.num_channels = config.num_channels if config.affine_norm else None
        self.channels_meet = config.mix_channels
        self.revin_layer: AffinePerChannel | None = None
        if config.affine_norm:
            self.revin_layer = AffinePerChannel(config.num_channels, eps=config.norm_eps)
        high, low, mixed = config.n1, config.n2, config.mix_channels
        self.lin1 = Linear(config.context_length, high)
        self.dropout1 = nn.Dropout(config.dropout)
        self.lin2 = Linear(high, low)
        self.dropout2 = nn.Dropout(config.dropout)
        self.mamba1 = _mixer(config, low if mixed else 1)
        self.mamba2 = _mixer(config, low)
        self.mamba3 = _mixer(config, high)
        self.mamba4 = _mixer(config, high if mixed else 1)
        self.lin3 = Linear(low, high)
        self.lin4 = Linear(2 * high, config.prediction_length)

    def network(self, values: Tensor, covariates: Tensor | None) -> Tensor:
        """Forecasts normalised windows.

        Shapes: values [B, L, C] -> [B, H, C]; there are no covariates.
        """
        if self.revin_layer is not None:
            values = self.revin_layer(values)
        rows_XSL = values.mT if self.config.mix_channels else values.mT.flatten(0, 1).unsqueeze(1)
        y_BCH = self._mixed(rows_XSL).reshape(len(values), values.shape[2], -1)
        return y_BCH.mT if self.revin_layer is None else self.revin_layer.restore(y_BCH.mT)

    def symmetries(self) -> list[Symmetry]:
        """Declares what the last map and the normalised series do not show, and what moves through the last map."""
        high, low, horizon = self.lin3.out_features, self.lin3.in_features, self.config.prediction_length
        inner = self.mamba3.d_inner
        below = {"lin3.weight": low, "lin3.bias": 1}
        if not self.config.residual:
            below = {}
        above = {"mamba3.out_proj.weight": inner}
        if self.config.mix_channels:
            above["mamba4.out_proj.weight"] = self.mamba4.d_inner
        reader = {"reader": "lin4.weight", "outputs": horizon}
        found = [
            unseen("timemachine.unseen_below", high, writers=below, **reader),
            unseen("timemachine.unseen_above", high, writers=above, start=high, **reader),
            shift("timemachine.bias", high, up={"lin3.bias": Slices()}, readers={"lin4.weight": "lin4.bias"}),
            self._above_basis(high),
        ]
        if self.revin_layer is not None:
            found.append(from_terms("timemachine.channel_offset", 1, _channel_offset_terms))
        else:
            values = NormReader({"lin1.weight": COLUMNS}, centred=True)
            options = {"reader": "lin1.weight", "norm": values, "reader_bias": None}
            found.append(zero_sum("timemachine.series_zero_sum", high, **options))
        return [symmetry for symmetry in found if symmetry.dimension]

    def _above_basis(self, high: int) -> Symmetry:
        """The blocks that read the high resolution are read by the last map alone, by columns of its own."""
        columns, mixed = Slices(axis=1, start=high), self.config.mix_channels
        writers = {f"{name}.out_proj.weight": Slices() for name in ("mamba3", "mamba4")}
        if mixed:
            return basis("timemachine.above_basis", high, forward=writers, backward={"lin4.weight": columns})
        # One block gives all features, the other one feature at a time: both have only a common unit.
        grow = {"mamba3.out_proj.weight": Slices(block=high), "mamba4.out_proj.weight": Slices()}
        return scale("timemachine.above_scale", 1, grow=grow, shrink={"lin4.weight": columns._replace(block=high)})

    def _mixed(self, rows_XSL: Tensor) -> Tensor:
        high_XSN = self.lin1(rows_XSL)
        dropped_XSN = self.dropout1(high_XSN)
        above_XSN = self._across(self.mamba4, dropped_XSN) + self.mamba3(dropped_XSN)
        low_XSM = self.lin2(dropped_XSN)
        dropped_XSM = self.dropout2(low_XSM)
        below_XSM = self._across(self.mamba1, dropped_XSM) + self.mamba2(dropped_XSM)
        residual = self.config.residual
        below_XSN = self.lin3(below_XSM + low_XSM if residual else below_XSM)
        below_XSN = below_XSN + high_XSN if residual else below_XSN
        return self.lin4(torch.cat([below_XSN, above_XSN], dim=2))

    def _across(self, mamba: Mamba, x_XSN: Tensor) -> Tensor:
        return mamba(x_XSN) if self.config.mix_channels else mamba(x_XSN.mT).mT


class AffinePerChannel(nn.Module):
    """Scales and shifts every channel by learned numbers, and takes forecasts back.

    The way back divides by the scale plus eps squared, as published, so that it is defined at scale 0.

    Shapes:
        [B, L, C] -> [B, L, C].

    Source: arXiv 2111.14865 (reversible instance normalisation), its affine part.
    """

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.affine_weight = nn.Parameter(torch.ones(channels))
        self.affine_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scaled and shifted values."""
        return x * self.affine_weight + self.affine_bias

    def restore(self, y: Tensor) -> Tensor:
        """Takes forecasts back."""
        return (y - self.affine_bias) / (self.affine_weight + self.eps * self.eps)


def _channel_offset_terms(params: Parameters) -> Iterator[Term]:
    """All channels may be shifted alike where they enter: the first map takes it back, the last one returns it."""
    one, offset = torch.ones(1, dtype=torch.float64), "revin_layer.affine_bias"
    yield vector_term(offset, one.expand(1, len(params[offset])))
    yield vector_term("lin1.bias", -params["lin1.weight"].sum(1).unsqueeze(0))
    yield vector_term("lin4.bias", one.expand(1, len(params["lin4.bias"])))


HORIZON_TENSORS = ("lin4.weight", "lin4.bias")  # all whose shape holds H
ADAPTABLE = ("prediction_length", "dropout", "norm_eps")


def _mixer(config: TimeMachineConfig, width: int) -> Mamba:
    return Mamba(width, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)


# Of TimeMachine_supervised/scripts: what is fixed per data set, and (n1, n2, dropout) for the horizons 96 to 720.
_SCRIPTS = {
    "etth1": ({}, ((512, 32, 0.7), (512, 64, 0.7), (512, 128, 0.7), (128, 16, 0.7))),
    "etth2": ({}, ((128, 32, 0.7), (256, 32, 0.7), (512, 64, 0.7), (256, 128, 0.7))),
    "ettm1": ({}, ((256, 64, 0.6), (512, 32, 0.6), (128, 16, 0.6), (512, 128, 0.6))),
    "ettm2": ({}, ((256, 32, 0.6), (128, 64, 0.6), (256, 128, 0.6), (256, 128, 0.6))),
    "weather": ({"num_channels": 21}, ((128, 16, 0.1), (512, 128, 0.5), (128, 64, 0.0), (512, 256, 0.0))),
    "electricity": (
        {"num_channels": 321, "mix_channels": True},
        ((512, 128, 0.0), (512, 256, 0.0), (512, 256, 0.4), (512, 8, 0.0)),
    ),
    "traffic": (
        {"num_channels": 862, "mix_channels": True, "affine_norm": False},
        ((512, 16, 0.3), (512, 256, 0.1), (512, 256, 0.1), (512, 128, 0.1)),
    ),
}

register_forecasters(
    TimeMachine,
    "timemachine",
    {
        f"{data}_96_{horizon}": TimeMachineConfig(prediction_length=horizon, n1=n1, n2=n2, dropout=dropout, **fields)
        for data, (fields, sizes) in _SCRIPTS.items()
        for horizon, (n1, n2, dropout) in zip((96, 192, 336, 720), sizes, strict=True)
    },
    adapt_weights=horizon_adapter(HORIZON_TENSORS, ADAPTABLE),
    paper="2403.09898",
)
