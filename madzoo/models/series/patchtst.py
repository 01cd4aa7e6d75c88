"""PatchTST: patches of a scaled series, mixed along time by multi-head attention, to quantiles of the future.

The trunk of :mod:`madzoo.models.series.patch_trunk`, as PatchS4D has it, with attention as the mixer: set beside a
PatchS4D of the same name, the two differ by the mixer and nothing else. ``patchtst_64_512_96`` has the sizes of the
published PatchTST/64 (patches of 16 steps every 8, width 128, 16 heads, 3 blocks, no linear skip). The published trunk
differs: batch norms behind the residual sums, scores handed from block to block, the last value repeated for one more
patch, and no channel that marks missing steps.

Axes: B series (batch times channels), T tokens, D d_model.
"""

from dataclasses import dataclass

from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, Places, rows_of
from madzoo.layers.windows import WindowAttention
from madzoo.models.series.direct import register_forecasters
from madzoo.models.series.patch_trunk import TRUNKS, PatchBlock, PatchConfig, PatchForecaster, adapt_patch_weights

__all__ = ["PatchTST", "PatchTSTBlock", "PatchTSTConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTSTConfig(PatchConfig):
    """Describes one PatchTST.

    Attributes:
        num_heads: heads, which divide d_model.

    The other fields are those of :class:`PatchConfig`.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    num_heads: int = 4

    def __post_init__(self) -> None:
        PatchConfig.__post_init__(self)
        if self.num_heads < 1 or self.d_model % self.num_heads:
            raise ConfigError("the heads do not divide the width.", asked=f"{self.num_heads} of {self.d_model}")


class PatchTSTBlock(PatchBlock[PatchTSTConfig]):
    """Lets every token read every other, then mixes channels by a feed-forward part; both residual.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def build_mixer(self, config: PatchTSTConfig) -> None:
        """Sets the attention."""
        self.attention = WindowAttention(config.d_model, config.num_heads)

    def linear_ends(self) -> tuple[Places, Places]:
        """Returns the projections of the attention."""
        return rows_of("attention.proj.weight", bias=True), {"attention.qkv.weight": COLUMNS}

    def mix(self, x_BTD: Tensor) -> Tensor:
        """Returns what each token read.

        Shapes: [B, T, D] -> [B, T, D].
        """
        return self.attention(x_BTD)


class PatchTST(PatchForecaster):
    """Forecasts quantiles of every channel from its own past, by attention among the patches.

    Args:
        config: see :class:`PatchTSTConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Source: arXiv 2211.14730, section 3.1.

    Example:
        >>> import torch
        >>> config = PatchTSTConfig(context_length=48, prediction_length=12, patch_size=8, patch_stride=8, d_model=4)
        >>> PatchTST(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    block = PatchTSTBlock


PUBLISHED = {"context_length": 512, "patch_size": 16, "patch_stride": 8, "d_model": 128, "depth": 3, "dropout": 0.2}

register_forecasters(
    PatchTST,
    "patchtst",
    {name: PatchTSTConfig(**TRUNKS[name]) for name in ("nano_512_96", "tiny_512_96", "micro_504_168", "small_672_168")}
    | {
        f"64_512_{horizon}": PatchTSTConfig(**PUBLISHED, prediction_length=horizon, num_heads=16, linear_skip=False)
        for horizon in (96, 192, 336, 720)
    },
    adapt_weights=adapt_patch_weights,
    paper="2211.14730",
)
