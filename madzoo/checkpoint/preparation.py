"""How the images of a model are prepared, in timm's words: its ``pretrained_cfg`` as timm's own functions read it."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["with_image_keys"]


def with_image_keys(cfg: Mapping[str, Any], *, in_chans: int, img_size: int, num_classes: int) -> dict[str, Any]:
    """Returns a ``pretrained_cfg`` with timm's keys, true for a model of these sizes.

    Where ``in_chans`` is not the number of channels the weights were prepared with, every channel gets the average
    mean and deviation; class names of another number of classes are dropped.

    Args:
        cfg: fields of ``madzoo.registry.PretrainedCfg``.
        in_chans, img_size, num_classes: of the model as it was built.

    Example:
        >>> with_image_keys({"mean": [0.4, 0.6]}, in_chans=1, img_size=28, num_classes=3)["mean"]
        [0.5]
    """
    names = cfg.get("class_names")
    return {
        **cfg,
        "hf_hub_id": cfg.get("hub_id"),
        "num_classes": num_classes,
        "input_size": [in_chans, img_size, img_size],
        "mean": _per_channel(cfg.get("mean"), in_chans),
        "std": _per_channel(cfg.get("std"), in_chans),
        "crop_mode": "center",
        "class_names": names if names and len(names) == num_classes else None,
    }


def _per_channel(values: Sequence[float] | None, channels: int) -> list[float] | None:
    if not values:
        return None
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels
