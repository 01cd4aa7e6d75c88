"""LinOSS forecaster: patches of a scaled series, mixed along time by forced oscillators, to quantiles of the future.

The trunk of :mod:`madzoo.models.series.patch_trunk`, as PatchS4D has it, with LinOSS as the mixer: set beside a
PatchS4D of the same name, the two differ by the mixer and nothing else, and have as many parameters to within half a
percent. An architecture of this project; the mixer is that of arXiv 2410.03943.

Axes: B series (batch times channels), T tokens, D d_model.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.layers.linear import Linear
from madzoo.layers.linoss import LinOSS
from madzoo.layers.mamba_symmetries import skip_shift
from madzoo.models.series.direct import check_at_least_one, register_forecasters
from madzoo.models.series.patch_trunk import TRUNKS, PatchBlock, PatchConfig, PatchForecaster, adapt_patch_weights
from madzoo.ops.oscillator_scan import DISCRETIZATIONS
from madzoo.symmetry import Symmetry

__all__ = ["LinOSSBlock", "LinOSSConfig", "LinOSSForecaster"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinOSSConfig(PatchConfig):
    """Describes one LinOSS forecaster.

    Attributes:
        d_state: oscillators, per direction.
        discretization: ``"IM"``, whose oscillations decay, or ``"IMEX"``, whose do not.
        bidirectional: also mix from the future to the past (within the context); False: causal mixing.

    The other fields are those of :class:`PatchConfig`.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    d_state: int = 16
    discretization: str = "IM"
    bidirectional: bool = True

    def __post_init__(self) -> None:
        PatchConfig.__post_init__(self)
        check_at_least_one(self, "d_state")
        if self.discretization not in DISCRETIZATIONS:
            raise ConfigError(
                f"no discretization is named {self.discretization!r}.",
                asked=self.discretization,
                looked=", ".join(DISCRETIZATIONS),
            )


class LinOSSBlock(PatchBlock[LinOSSConfig]):
    """Mixes tokens by oscillators with a gated output, then channels by a feed-forward part; both residual.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def build_mixer(self, config: LinOSSConfig) -> None:
        """Sets the oscillators of each direction, and the gate."""
        width, oscillators = config.d_model, {"d_state": config.d_state, "discretization": config.discretization}
        self.linoss_forward = LinOSS(width, **oscillators)
        self.linoss_backward = LinOSS(width, **oscillators) if config.bidirectional else None
        self.gate = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), Linear(width, 2 * width), nn.GLU(-1))

    def symmetries(self) -> list[Symmetry]:
        """Declares that both directions have one skip: only the sum of their D counts."""
        if self.linoss_backward is None:
            return []
        return [skip_shift(len(self.linoss_forward.D), "linoss_forward.D", "linoss_backward.D")]

    def mix(self, x_BTD: Tensor) -> Tensor:
        """Returns the gated sum of the directions.

        Shapes: [B, T, D] -> [B, T, D].
        """
        y_BTD = self.linoss_forward(x_BTD)
        if self.linoss_backward is not None:
            y_BTD = y_BTD + self.linoss_backward(x_BTD, reverse=True)
        return self.gate(y_BTD)


class LinOSSForecaster(PatchForecaster):
    """Forecasts quantiles of every channel from its own past, by oscillators along the patches.

    Args:
        config: see :class:`LinOSSConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Example:
        >>> import torch
        >>> config = LinOSSConfig(context_length=48, prediction_length=12, patch_size=8, patch_stride=8, d_model=4)
        >>> LinOSSForecaster(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    block = LinOSSBlock


register_forecasters(
    LinOSSForecaster,
    "linoss",
    {name: LinOSSConfig(**TRUNKS[name]) for name in ("nano_512_96", "tiny_512_96", "micro_504_168", "small_672_168")},
    adapt_weights=adapt_patch_weights,
)
