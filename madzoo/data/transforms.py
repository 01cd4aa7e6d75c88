"""From a picture to the tensor a model expects, by timm's transforms and the model's own configuration."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor, nn

from madzoo._torchvision_shim import ensure_torchvision
from madzoo.errors import ConfigError

ensure_torchvision()

from timm.data.transforms_factory import create_transform as timm_transform  # noqa: E402

__all__ = ["create_transform"]

MODES = {1: "L", 3: "RGB"}


def create_transform(model: nn.Module, *, is_training: bool = False) -> Callable[[Image.Image], Tensor]:
    """Returns the transform of PIL images that fits a model's ``pretrained_cfg``.

    For evaluation: to the model's colour channels, resized to ``input_size / crop_pct``, cropped at the centre,
    normalised. For training: timm's random resized crop and flip in place of resizing and cropping.

    Args:
        model: an image model of the zoo, or of timm.
        is_training: random augmentation.

    Shapes:
        a picture of any size and mode -> [C, height, width], float32.

    Raises:
        ConfigError: when the model says nothing about its input, or takes neither grey nor RGB pictures.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    missing = [name for name in ("input_size", "mean", "std") if not _get(cfg, name)]
    if missing:
        raise ConfigError(
            f"the model's pretrained_cfg lacks {', '.join(missing)}.",
            asked=f"create_transform({type(model).__name__})",
            todo="an image model made by name with its weights, or fill model.pretrained_cfg",
        )
    size = tuple(_get(cfg, "input_size"))
    if size[0] not in MODES:
        raise ConfigError(f"pictures have 1 or 3 channels; the model takes {size[0]}.", asked=f"input_size {size}")
    prepare: Any = timm_transform(
        input_size=size,
        is_training=is_training,
        interpolation=_get(cfg, "interpolation") or "bicubic",
        mean=tuple(_get(cfg, "mean")),
        std=tuple(_get(cfg, "std")),
        crop_pct=_get(cfg, "crop_pct") or 1.0,
    )
    return lambda image: prepare(image.convert(MODES[size[0]]))


def _get(cfg: Any, name: str) -> Any:
    return cfg.get(name) if isinstance(cfg, dict) else getattr(cfg, name, None)
