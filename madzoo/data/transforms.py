"""From a picture to the tensor a model expects, by timm's transforms and the model's own configuration."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from madzoo._torchvision_shim import ensure_torchvision
from madzoo.errors import ConfigError, DataError

ensure_torchvision()

from timm.data.transforms_factory import create_transform as timm_transform  # noqa: E402

__all__ = ["PictureTransform", "create_transform"]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # the colours that PIL has for a number of channels


class PictureTransform:
    """Turns pictures of any size and mode into tensors; can be copied to the workers of a loader.

    Attributes:
        mode: PIL's name of the colours that a picture is converted to first.
        steps: timm's transforms, behind that.
    """

    def __init__(self, mode: str, steps: Any) -> None:
        self.mode, self.steps = mode, steps

    def __call__(self, picture: Image.Image) -> Tensor:
        """Returns the tensor of a picture, [C, height, width], float32.

        Raises:
            DataError: when it is no PIL image.
        """
        if not isinstance(picture, Image.Image):
            todo = "PIL.Image.open(path), or PIL.Image.fromarray(pixels)"
            raise DataError("a picture is an image of PIL.", asked=type(picture).__name__, todo=todo)
        return self.steps(picture.convert(self.mode)).to(torch.float32)

    def __repr__(self) -> str:
        return f"PictureTransform(mode={self.mode!r}, steps={self.steps!r})"


def create_transform(
    model: nn.Module, *, is_training: bool = False, img_size: int | tuple[int, int] | None = None, **options: Any
) -> PictureTransform:
    """Returns the transform of PIL images that fits a model's ``pretrained_cfg``.

    For evaluation: to the model's colours, resized to ``input_size / crop_pct`` (both sides, if its ``crop_mode`` is
    ``"squash"``), cropped at the centre, normalised.
    For training: timm's random resized crop, flip and colour jitter in place of resizing and cropping, and whatever
    else the options ask for.

    Args:
        model: an image model of the zoo, or of timm.
        is_training: random augmentation.
        img_size: side or (height, width) in place of the model's own, which its images may have at call time.
        options: of timm's ``create_transform``: ``auto_augment``, ``color_jitter``, ``scale``, ``re_prob``...

    Shapes:
        a picture of any size and mode -> [C, height, width], float32: grey for one channel, colours for three; two and
        four are these with transparency.

    Raises:
        ConfigError: when the model says nothing about its input, takes more channels than pictures have, or timm
            refuses an option.

    Example:
        >>> from madzoo.factory import create_model
        >>> create_transform(create_model("vim_tiny_patch16_224"))(Image.new("L", (300, 200))).shape
        torch.Size([3, 224, 224])
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    asked = f"create_transform({getattr(model, 'madzoo_name', type(model).__name__)})"
    missing = [name for name in ("input_size", "mean", "std") if not _get(cfg, name)]
    if missing:
        todo = "an image model whose weights are known, or model.pretrained_cfg |= {'mean': (0.5,) * 3, 'std': ...}"
        raise ConfigError(f"the model's pretrained_cfg lacks {', '.join(missing)}.", asked=asked, todo=todo)
    channels, *size = _get(cfg, "input_size")
    if channels not in MODES:
        looked = f"input_size {[channels, *size]}, pictures of {', '.join(map(str, MODES))} channels"
        raise ConfigError(f"no picture has {channels} channels.", asked=asked, looked=looked, todo="in_chans=3")
    height, width = (img_size,) * 2 if isinstance(img_size, int) else img_size or size
    settings = {
        "input_size": (channels, height, width),
        "is_training": is_training,
        "interpolation": _get(cfg, "interpolation") or "bicubic",
        "mean": tuple(_get(cfg, "mean")),
        "std": tuple(_get(cfg, "std")),
        "crop_pct": _get(cfg, "crop_pct") or 1.0,
        "crop_mode": _get(cfg, "crop_mode") or "center",
    }
    try:
        steps = timm_transform(**{**settings, **options})
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f"timm refuses: {error}", asked=f"{asked} with {options}") from error
    return PictureTransform(MODES[channels], steps)


def _get(cfg: Any, name: str) -> Any:
    return cfg.get(name) if isinstance(cfg, dict) else getattr(cfg, name, None)
