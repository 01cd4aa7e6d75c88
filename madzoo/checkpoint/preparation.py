"""``pretrained_cfg`` as plain JSON: what its values must be, and timm's keys for how images are prepared."""

from collections.abc import Mapping, Sequence
from typing import Any

from madzoo.errors import CheckpointError

__all__ = ["check_pretrained_cfg", "with_image_keys"]

_NAMES = ("filename", "interpolation", "crop_mode")
_TEXT = ("license", "dataset", "source", "hub_id", "revision", "url", "sha256", *_NAMES)
_LISTS = {"mean": (int, float), "std": (int, float), "input_size": (int,), "class_names": (str,)}
_KINDS = {**dict.fromkeys(_TEXT, (str,)), **dict.fromkeys(_LISTS, (list,)), "model_args": (dict,)}
_KINDS["crop_pct"] = (int, float)
_REQUIRED = (*_NAMES, "model_args", "crop_pct")


def check_pretrained_cfg(values: Mapping[str, Any], *, path: object) -> None:
    """Checks the types of the values that a checkpoint folder gives.

    Args:
        values: fields of ``madzoo.registry.PretrainedCfg``.
        path: the file they come from, for the message.

    Raises:
        CheckpointError: naming the first ill-typed field.
    """
    for key, value in values.items():
        optional = () if key in _REQUIRED else (type(None),)
        of_kind = type(value) in (*_KINDS.get(key, (type(value),)), *optional)
        if not of_kind or (isinstance(value, list) and not _is_list(value, _LISTS.get(key, ()))):
            raise CheckpointError(
                f"{path}: pretrained_cfg has no usable {key!r}.", asked=repr(value), todo="a folder that madzoo wrote"
            )


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
        "crop_mode": cfg.get("crop_mode") or "center",
        "class_names": names if names and len(names) == num_classes else None,
    }


def _is_list(values: list[Any], kinds: tuple[type, ...]) -> bool:
    return bool(values) and all(type(value) in kinds for value in values)


def _per_channel(values: Sequence[float] | None, channels: int) -> list[float] | None:
    if not values:
        return None
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels
