"""Pictures and a model name in, the likeliest classes with their probabilities out."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from madzoo.data.image_files import UNREADABLE
from madzoo.data.transforms import create_transform
from madzoo.errors import ConfigError, DataError
from madzoo.factory import create_model

__all__ = ["ImagePrediction", "classify"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePrediction:
    """States what a model sees in one picture.

    Attributes:
        image: its path, or its position in the list where it came without one.
        model: full name of the model.
        classes: the likeliest first.
        probabilities: of these classes; all classes together sum to 1.
    """

    image: str
    model: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def classify(
    model_or_name: nn.Module | str, images: Sequence[str | os.PathLike[str] | Image.Image], *, top: int = 5
) -> list[ImagePrediction]:
    """Classifies pictures, each prepared as the model's own configuration says.

    Args:
        model_or_name: an image classifier, or the name of one, whose weights are then loaded.
        images: paths or PIL images, of any size and mode.
        top: how many classes to name; never more than there are.

    Raises:
        DataError: when a picture is missing, empty or no readable image, or none is given.
        ConfigError: when the model is no image classifier, or ``top`` is below 1.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if top < 1:
        raise ConfigError("top is a number of classes, at least 1.", asked=f"top={top}")
    if not images:
        raise DataError("no picture was given.", todo="the path of one image or more")
    pictures = [image if isinstance(image, Image.Image) else _read_image(Path(image)) for image in images]
    model = create_model(model_or_name, pretrained=True) if isinstance(model_or_name, str) else model_or_name
    names = _class_names(model)
    prepare = create_transform(model)
    labels = [str(i) if isinstance(image, Image.Image) else os.fspath(image) for i, image in enumerate(images)]
    return [
        _prediction(label, model, _probabilities(model, prepare(picture)), names, top)
        for label, picture in zip(labels, pictures, strict=True)
    ]


def _read_image(path: Path) -> Image.Image:
    if not path.is_file():
        raise DataError("there is no such picture.", asked=path, todo="the path of an image file")
    if not path.stat().st_size:
        raise DataError("the picture is an empty file.", asked=path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).copy()
    except UNREADABLE as error:
        raise DataError("the file is no readable image.", asked=path, looked=error, todo="PNG, JPEG or WebP") from error


def _class_names(model: Any) -> list[str]:
    count = getattr(model, "num_classes", 0)
    if getattr(model, "task", "image-classification") != "image-classification" or count < 1:
        raise ConfigError(
            "the model does not classify images.",
            asked=_name_of(model),
            todo="madzoo list --task image-classification --pretrained",
        )
    names = (getattr(model, "pretrained_cfg", None) or {}).get("class_names")
    return list(names) if names else [f"class {index}" for index in range(count)]


def _probabilities(model: nn.Module, image_CHW: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return model(image_CHW.unsqueeze(0).to(next(model.parameters()))).softmax(-1)[0]
    finally:
        model.train(was_training)


def _prediction(image: str, model: nn.Module, probabilities: Tensor, names: list[str], top: int) -> ImagePrediction:
    values, indices = probabilities.topk(min(top, len(names)))
    return ImagePrediction(
        image=image,
        model=_name_of(model),
        classes=tuple(names[index] for index in indices.tolist()),
        probabilities=tuple(values.tolist()),
    )


def _name_of(model: nn.Module) -> str:
    return getattr(model, "madzoo_name", type(model).__name__)
