"""An image model as a backbone: the feature maps of chosen stages, and what a decoder must know about them."""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.models.image.protocol import ImageClassifier, Indices

__all__ = ["FeatureInfo", "FeatureMaps"]

DEFAULT_COUNT = 4  # timm's: the stages of a pyramid, the last four blocks of anything else


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureInfo:
    """Describes feature maps; answers timm's questions.

    Attributes:
        out_indices: numbers of the stages they come from.
        info: one entry per stage of the model: ``module``, ``num_chs`` and ``reduction``.
    """

    out_indices: tuple[int, ...]
    info: tuple[dict[str, Any], ...]

    def channels(self) -> list[int]:
        """Returns the width of each map."""
        return [self.info[i]["num_chs"] for i in self.out_indices]

    def reduction(self) -> list[int]:
        """Returns how many image pixels a position of each map stands for, along a side."""
        return [self.info[i]["reduction"] for i in self.out_indices]

    def module_name(self) -> list[str]:
        """Returns the name of the module each map comes from."""
        return [self.info[i]["module"] for i in self.out_indices]

    def get_dicts(self) -> list[dict[str, Any]]:
        """Returns the entries of the maps."""
        return [dict(self.info[i]) for i in self.out_indices]


class FeatureMaps(nn.Module):
    """Returns the feature maps of an image model instead of logits; what they do not need is removed from it.

    Args:
        model: an image model of the zoo; it is pruned in place.
        out_indices: which stages: n for the last n, or their numbers; None for the last four.

    Shapes:
        [B, C, height, width] -> one [B, D, H, W] per stage, as ``feature_info`` describes them.

    Raises:
        ConfigError: when the model has no such stages, or tells of no feature maps.

    Example:
        >>> import torch
        >>> from madzoo.factory import create_model
        >>> backbone = create_model("weft_micro_patch4_32", features_only=True, out_indices=[0, 1])
        >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 32, 48))]
        [(1, 128, 8, 12), (1, 128, 8, 12)]
        >>> backbone.feature_info.reduction()
        [4, 4]
    """

    task = "image-classification"

    def __init__(self, model: nn.Module, out_indices: Indices = None) -> None:
        super().__init__()
        if not isinstance(model, ImageClassifier):
            raise ConfigError("the model has no feature maps.", asked=f"features_only of a {type(model).__name__}")
        info = tuple(model.feature_info)
        wanted = min(DEFAULT_COUNT, len(info)) if out_indices is None else out_indices
        chosen = tuple(model.prune_intermediate_layers(wanted, prune_norm=True))
        self.feature_info = FeatureInfo(out_indices=chosen, info=info)
        self.config, self.num_classes, self.pretrained_cfg = model.config, 0, model.pretrained_cfg
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the feature maps.

        Raises:
            ShapeError: when the image does not fit the model.
        """
        indices = self.feature_info.out_indices
        maps = self.model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
        return cast("list[Tensor]", maps)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations."""
        self.model.set_grad_checkpointing(enable)
