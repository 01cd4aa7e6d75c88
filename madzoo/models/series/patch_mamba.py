"""PatchMamba: patches of a scaled series, mixed along time by selective state spaces, to quantiles of the future.

The trunk of :mod:`madzoo.models.series.patch_trunk`, as PatchS4D has it, with Mamba mixers (Mamba-1, or Mamba-2): set
beside a PatchS4D of the same name, the two differ by the mixer and nothing else. Each direction has half of the
tokens' width inside, so that both together have as many parameters as PatchS4D's mixer, to within 2.5 percent of the
model. An architecture of this project; the mixers are those of arXiv 2312.00752 and 2405.21060.

Axes: B series (batch times channels), T tokens, D d_model.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import COLUMNS, Places, Slices
from madzoo.layers.mamba import Mamba
from madzoo.layers.mamba2 import Mamba2
from madzoo.models.series.direct import check_at_least_one, register_forecasters
from madzoo.models.series.patch_trunk import TRUNKS, PatchBlock, PatchConfig, PatchForecaster, adapt_patch_weights

__all__ = ["PatchMamba", "PatchMambaBlock", "PatchMambaConfig"]

MIXERS = ("mamba", "mamba2")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMambaConfig(PatchConfig):
    """Describes one PatchMamba.

    Attributes:
        mixer: ``"mamba"`` (Mamba-1) or ``"mamba2"``.
        d_state: states per channel (of a head, for Mamba-2), per direction.
        d_conv: taps of the short convolution.
        mixer_expand: inner width of a direction over d_model.
        headdim: channels of a head of Mamba-2; it divides the inner width.
        bidirectional: also mix from the future to the past (within the context); False: causal mixing.
        dt_min, dt_max: range of the initial time steps, in patches.

    The other fields are those of :class:`PatchConfig`.

    Raises:
        ConfigError: when a value lies outside its range.
    """

    mixer: str = "mamba"
    d_state: int = 16
    d_conv: int = 4
    mixer_expand: float = 0.5
    headdim: int = 8
    bidirectional: bool = True
    dt_min: float = 0.001
    dt_max: float = 0.1

    def __post_init__(self) -> None:
        PatchConfig.__post_init__(self)
        if self.mixer not in MIXERS:
            raise ConfigError(f"no mixer is named {self.mixer!r}.", asked=self.mixer, looked=", ".join(MIXERS))
        check_at_least_one(self, "d_state", "d_conv", "headdim")
        if not 1 <= self.mixer_expand * self.d_model < 2**31:
            raise ConfigError("the mixer has no channel, or too many.", asked=f"mixer_expand={self.mixer_expand}")
        if not 0 < self.dt_min <= self.dt_max < float("inf"):
            raise ConfigError("steps need 0 < dt_min <= dt_max.", asked=f"dt_min={self.dt_min}, dt_max={self.dt_max}")


class PatchMambaBlock(PatchBlock[PatchMambaConfig]):
    """Mixes tokens by a Mamba from the past and one from the future, then channels by a feed-forward part.

    Shapes:
        [B, T, D] -> [B, T, D].
    """

    def build_mixer(self, config: PatchMambaConfig) -> None:
        """Sets one Mamba per direction."""
        self.mamba_forward = _mixer(config)
        self.mamba_backward = _mixer(config) if config.bidirectional else None

    def linear_ends(self) -> tuple[Places, Places]:
        """Returns the outer projections of the directions."""
        mambas = ["mamba_forward"] + ([] if self.mamba_backward is None else ["mamba_backward"])
        writers = {f"{mamba}.out_proj.weight": Slices() for mamba in mambas}
        return writers, {f"{mamba}.in_proj.weight": COLUMNS for mamba in mambas}

    def mix(self, x_BTD: Tensor) -> Tensor:
        """Returns the sum of the directions.

        Shapes: [B, T, D] -> [B, T, D].
        """
        y_BTD = self.mamba_forward(x_BTD)
        if self.mamba_backward is not None:
            y_BTD = y_BTD + self.mamba_backward(x_BTD.flip(1)).flip(1)
        return y_BTD


class PatchMamba(PatchForecaster):
    """Forecasts quantiles of every channel from its own past, by Mamba along the patches.

    Args:
        config: see :class:`PatchMambaConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Example:
        >>> import torch
        >>> config = PatchMambaConfig(context_length=48, prediction_length=12, patch_size=8, patch_stride=8, d_model=4)
        >>> PatchMamba(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 12, 3, 1])
    """

    block = PatchMambaBlock


def _mixer(config: PatchMambaConfig) -> nn.Module:
    options: dict[str, Any] = {"d_state": config.d_state, "d_conv": config.d_conv, "expand": config.mixer_expand}
    options |= {"dt_min": config.dt_min, "dt_max": config.dt_max}
    if config.mixer == "mamba2":
        return Mamba2(config.d_model, headdim=config.headdim, **options)
    return Mamba(config.d_model, **options)


register_forecasters(
    PatchMamba,
    "patch_mamba",
    {name: PatchMambaConfig(**fields) for name, fields in TRUNKS.items()},
    adapt_weights=adapt_patch_weights,
)
