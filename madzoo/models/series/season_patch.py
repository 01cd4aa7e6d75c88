"""SeasonPatch: two forecasters of one horizon, each seeing the past its own way, and the average of their quantiles.

A SeasonS4D that has learnt from many series beside a PatchS4D that has learnt from a few: one has the wider experience,
the other knows the series at hand. Their quantiles are averaged level by level (Vincentization), each level with a
share of its own, because the one may have the better median and the other the better tails.

Axes: B batch, L context, C channels, H horizon, Q quantiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import CheckpointError, ConfigError
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.weight_decay import named_by_layers
from madzoo.models.series.direct import NINE_LEVELS, DirectConfig, DirectForecaster, register_forecasters
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.models.series.patch_trunk import adapt_patch_weights
from madzoo.models.series.season_s4d import SeasonS4D, SeasonS4DConfig, adapt_season_weights
from madzoo.registry import PretrainedCfg, find_spec

__all__ = ["SeasonPatch", "SeasonPatchConfig", "share_logits"]

MEMBERS = {"season": adapt_season_weights, "patch": adapt_patch_weights}
LEAST = 1e-3  # a share of exactly 0 or 1 has no finite logit


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonPatchConfig(DirectConfig):
    """Describes one SeasonPatch by its two members.

    Attributes:
        context_length: steps of the past, L: those of the member that sees more.
        prediction_length: steps of the future, H: at most those of either member, whose later steps are left out.
        quantile_levels: the levels of both members.
        season: the member that knows seasons; its series have ``patch_size`` steps in one.
        patch: the other member.

    Raises:
        ConfigError: when the members do not fit together.
    """

    season: SeasonS4DConfig
    patch: PatchS4DConfig

    def __post_init__(self) -> None:
        DirectConfig.__post_init__(self)  # super() does not find its class once a dataclass has slots
        members = (self.season, self.patch)
        if self.context_length != max(member.context_length for member in members):
            raise ConfigError("context_length is that of the member that sees more.", asked=self.context_length)
        if self.prediction_length > min(member.prediction_length for member in members):
            raise ConfigError(
                "prediction_length is at most that of either member.",
                asked=self.prediction_length,
                todo="predict(prediction_length=...), which rolls longer forecasts out",
            )
        if any(member.quantile_levels != self.quantile_levels for member in members):
            raise ConfigError("both members have the quantile levels of the whole.", asked=self.quantile_levels)


class SeasonPatch(Forecaster):
    """Forecasts quantiles that are averages of two members' quantiles.

    ``season`` and ``patch`` are whole forecasters, with the parameter names of their own checkpoints. ``balance`` holds
    one logit per level; its logistic function is the share of ``season``, so that shares are never negative and sum
    to 1. Levels with different shares could cross and are sorted.

    Args:
        config: see :class:`SeasonPatchConfig`.

    Shapes:
        past_values [B, L, C] in any units, NaN = missing -> quantiles [B, H, C, Q] in the same units; any L.

    Source: averages of quantiles by level, as by Vincent, A new method of averaging learning curves (1912).

    Example:
        >>> sizes = {"context_length": 96, "patch_size": 24, "patch_stride": 24, "d_model": 4}
        >>> season = SeasonS4DConfig(prediction_length=48, bottleneck=8, last_value_gate=True, **sizes)
        >>> patch = PatchS4DConfig(prediction_length=36, **sizes)
        >>> config = SeasonPatchConfig(context_length=96, prediction_length=36, season=season, patch=patch)
        >>> SeasonPatch(config)(torch.randn(2, 60, 3)).shape
        torch.Size([2, 36, 3, 1])
    """

    task = DirectForecaster.task
    channels_meet = False
    short_is_padded = True
    head_names = ("season.head", "season.linear_skip", "patch.head", "patch.linear_skip")

    def __init__(self, config: SeasonPatchConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.context_length
        self.prediction_length = config.prediction_length
        self.quantile_levels = config.quantile_levels
        self.num_channels = None
        self.season = SeasonS4D(config.season)
        self.patch = PatchS4D(config.patch)
        self.balance = nn.Parameter(torch.zeros(len(config.quantile_levels)))

    def forward(self, past_values: Tensor) -> Tensor:
        """Returns quantiles, see the class.

        Raises:
            ShapeError: when past_values has other axes than [B, L, C], or L or C is 0.
        """
        season, patch = (member(past_values)[:, : self.prediction_length] for member in (self.season, self.patch))
        share_Q = self.shares().to(season.dtype)
        # Not patch + share (season - patch), whose difference may overflow.
        return (share_Q * season + (1 - share_Q) * patch).sort(-1).values

    def shares(self) -> Tensor:
        """Returns the share of ``season`` at every level, [Q] in (0, 1)."""
        return self.balance.sigmoid()

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort: what the members name."""
        return named_by_layers(self)


def share_logits(shares: Tensor) -> Tensor:
    """Returns the ``balance`` of given shares of ``season``, [Q].

    Raises:
        ConfigError: when a share lies outside [0, 1].

    Example:
        >>> share_logits(torch.tensor([0.5, 0.75])).sigmoid()
        tensor([0.5000, 0.7500])
    """
    if not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ConfigError("a share lies between 0 and 1.", asked=shares.tolist())
    return shares.clamp(LEAST, 1 - LEAST).logit()


def adapt_member_weights(state: Mapping[str, Tensor], source: Any, target: Any) -> dict[str, Tensor]:
    """Fits the weights of both members, each as its own family does; a shorter horizon leaves them as they are.

    Raises:
        CheckpointError: on other levels, or whatever the families of the members refuse.
    """
    if source.quantile_levels != target.quantile_levels:
        asked = f"quantile_levels: {source.quantile_levels} -> {target.quantile_levels}"
        raise CheckpointError("these weights fit no other configuration.", asked=asked, todo="pretrained=False")
    fitted = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in MEMBERS}
    for member, adapt in MEMBERS.items():
        own = {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith(f"{member}.")}
        old, new = getattr(source, member), getattr(target, member)
        changed = own if old == new else adapt(own, old, new)
        fitted |= {f"{member}.{name}": tensor for name, tensor in changed.items()}
    return fitted


register_forecasters(
    SeasonPatch,
    "season_patch",
    {
        "base_1008_168": SeasonPatchConfig(
            context_length=1008,
            prediction_length=168,
            quantile_levels=NINE_LEVELS,
            season=find_spec("season_s4d_base_1008_192").config,
            patch=find_spec("patch_s4d_micro_504_168").config,
        )
    },
    adapt_weights=adapt_member_weights,
    weights={"base_1008_168": {"ett1h": PretrainedCfg(license="apache-2.0", dataset="fev-ett-1h")}},
)
