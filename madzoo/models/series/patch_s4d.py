"""PatchS4D: patches of a scaled series, mixed along time by S4D convolutions, to quantiles of the future.

A small linear state space forecaster: the trunk of :mod:`madzoo.models.series.patch_trunk` with bidirectional (or
causal) S4D mixers. An architecture of this project; the mixing is S4D's (arXiv 2206.11893).

Axes: B series (batch times channels), T tokens, D d_model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.layers.linear import Linear
from madzoo.layers.s4d import S4DKernel
from madzoo.layers.s4d_null_space import kernel_null_space
from madzoo.models.series.direct import register_forecasters
from madzoo.models.series.patch_trunk import (
    HORIZON_TENSORS,
    TRUNKS,
    PatchBlock,
    PatchConfig,
    PatchForecaster,
    adapt_patch_weights,
)
from madzoo.registry import PretrainedCfg
from madzoo.symmetry import Symmetry

__all__ = ["HORIZON_TENSORS", "PatchS4D", "PatchS4DBlock", "PatchS4DConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchS4DConfig(PatchConfig):
    """Describes one PatchS4D.

    Attributes:
        d_state: real state size of each channel's system, per direction.
        bidirectional: also mix from the future to the past (within the context); False: causal mixing.
        dt_min, dt_max: range of the initial time steps, in patches.

    The other fields are those of :class:`PatchConfig`.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    d_state: int = 32
    bidirectional: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1


class PatchS4DBlock(PatchBlock[PatchS4DConfig]):
    """Mixes tokens by S4D convolutions with a gated output, then channels by a feed-forward part; both residual.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def build_mixer(self, config: PatchS4DConfig) -> None:
        """Sets one system per direction and channel, the skip, and the gate."""
        d_model = config.d_model
        system = {"d_state": config.d_state, "dt_min": config.dt_min, "dt_max": config.dt_max}
        self.kernel_forward = S4DKernel(d_model, **system)
        self.kernel_backward = S4DKernel(d_model, **system) if config.bidirectional else None
        self.D = nn.Parameter(torch.randn(d_model))
        self.kernel_length = config.num_tokens
        self.gate = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), Linear(d_model, 2 * d_model), nn.GLU(-1))

    def symmetries(self) -> list[Symmetry]:
        """Declares what a kernel as short as the context cannot show of its systems, where it is too short for all."""
        found = kernel_null_space(
            self.kernel_length,
            2 * self.kernel_forward.C.shape[1],
            len(self.D),
            backward=self.kernel_backward is not None,
        )
        return [] if found is None else [found]

    def mix(self, x_BTD: Tensor) -> Tensor:
        """Returns the gated convolutions.

        Shapes: [B, T, D] -> [B, T, D].
        """
        u_BDT = x_BTD.mT
        y_BDT = self.kernel_forward.convolve(u_BDT, self.D)
        if self.kernel_backward is not None:
            y_BDT = y_BDT + self.kernel_backward.convolve(u_BDT, reverse=True)
        return self.gate(y_BDT.mT)


class PatchS4D(PatchForecaster):
    """Forecasts quantiles of every channel from its own past, by S4D along the patches.

    Args:
        config: see :class:`PatchS4DConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Example:
        >>> config = PatchS4DConfig(context_length=48, prediction_length=12, patch_size=8, patch_stride=8, d_model=4)
        >>> PatchS4D(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    block = PatchS4DBlock


ETT = {name: PretrainedCfg(license="apache-2.0", dataset=name) for name in ("etth1", "etth2", "ettm1")}
WEATHER = PretrainedCfg(license="apache-2.0", dataset="weather", model_args={"linear_skip": False, "dropout": 0.1})

register_forecasters(
    PatchS4D,
    "patch_s4d",
    {name: PatchS4DConfig(**fields) for name, fields in TRUNKS.items()},
    adapt_weights=adapt_patch_weights,
    weights={
        "nano_512_96": ETT,
        "nano_512_720": ETT,
        "tiny_512_96": {"weather": WEATHER},
        "tiny_512_720": {"weather": WEATHER},
        "micro_504_168": {"ett1h": PretrainedCfg(license="apache-2.0", dataset="fev-ett-1h")},
        "small_672_168": {"zeroshot": PretrainedCfg(license="apache-2.0", dataset="synthetic")},
    },
)
