"""The pictures of a fine-tuning, whatever they lie in, brought to the size and colours of the model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from madzoo.data.catalog import DATASETS
from madzoo.data.image_files import PictureFormat, decode_pictures
from madzoo.data.image_tables import read_parts
from madzoo.data.images import ImageArrays
from madzoo.data.load import load_image_split
from madzoo.errors import DataError, nearest

__all__ = ["FinetuneData", "load_finetune_data", "resize_images"]

VAL_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneData:
    """Holds what a model is fine-tuned and validated on.

    Attributes:
        name: of the data: the last part of their path, or their name in the catalog.
        class_names: in the order of the labels.
        train, validation: pictures of the model's size and colours.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageArrays
    validation: ImageArrays


def load_finetune_data(
    data: Path | str,
    form: PictureFormat,
    *,
    val_fraction: float | None,
    seed: int,
    image_column: str | None = None,
    label_column: str | None = None,
    data_dir: Path | str | None = None,
) -> FinetuneData:
    """Reads and prepares labelled pictures.

    Args:
        data: a path, see :func:`madzoo.data.image_tables.read_parts`, or the name of an image set of the catalog.
        form: what the model takes.
        val_fraction: drawn from every class for validation, with the seed, where the data have no such part; by
            default one in ten.
        seed: of that draw.
        image_column, label_column: of Parquet.
        data_dir: local data folder, for a name of the catalog.

    Raises:
        ConfigError: on an impossible fraction.
        DataError: when there are no such pictures, or they cannot be read.
    """
    if not Path(data).exists() and str(data) in DATASETS:
        return _from_catalog(str(data), form, data_dir)
    _check_exists(data)
    train, held_out = read_parts(data, image_column=image_column, label_column=label_column)
    if held_out is None:
        train, held_out = train.split(VAL_FRACTION if val_fraction is None else val_fraction, seed=seed)
    return FinetuneData(
        name=Path(data).resolve().stem,
        class_names=train.class_names,
        train=decode_pictures(train, form),
        validation=decode_pictures(held_out, form),
    )


def resize_images(data: ImageArrays, form: PictureFormat) -> ImageArrays:
    """Brings decoded images to another size and other colours."""
    if tuple(data.images.shape[1:]) == form.size and form.crop_pct == 1:
        return data
    images = np.empty((len(data), *form.size), dtype=np.uint8)
    for row, pixels in enumerate(data.images.permute(0, 2, 3, 1).numpy()):
        images[row] = form.fit(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels))
    return ImageArrays(images=torch.from_numpy(images), labels=data.labels, num_classes=data.num_classes)


def _from_catalog(name: str, form: PictureFormat, data_dir: Path | str | None) -> FinetuneData:
    spec = DATASETS[name]
    if spec.task != "image-classification":
        raise DataError(f"{name} holds series, not pictures.", asked=name, todo="a folder or Parquet of pictures")
    train, held_out = (load_image_split(spec, part, folder=data_dir) for part in ("train", "validation"))
    return FinetuneData(
        name=name,
        class_names=spec.class_names,
        train=resize_images(train, form),
        validation=resize_images(held_out, form),
    )


def _check_exists(data: Path | str) -> None:
    if not Path(data).exists():
        guess = nearest(str(data), [name for name, spec in DATASETS.items() if spec.channels])
        raise DataError(
            "there are no such data.",
            asked=data,
            looked="the file system and the data catalog",
            todo=guess or "a folder of class folders, or Parquet",
        )
