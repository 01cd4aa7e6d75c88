"""Labelled pictures on disk, of any size and format: folders named after their classes, or Parquet.

C channels, H height, W width, K classes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from madzoo.data.images import ImageArrays
from madzoo.errors import ConfigError, DataError

__all__ = ["UNREADABLE", "LabelledPictures", "PictureFormat", "decode_pictures", "read_class_folders"]

# What PIL raises on files that are damaged, foreign, or far too large.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
INTERPOLATIONS = {name.lower(): way for name, way in Image.Resampling.__members__.items()}
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPictures:
    """Holds encoded pictures, or where they are, and their classes.

    Attributes:
        pictures: bytes of a file, or its path.
        labels: of each, 0 to K - 1.
        class_names: K names.
        origin: where they were found, for messages.
    """

    pictures: Sequence[bytes | Path]
    labels: Sequence[int]
    class_names: tuple[str, ...]
    origin: str

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DataError(
                "there is only one class to learn." if self.class_names else "there is no picture.",
                asked=self.origin,
                looked=", ".join(self.class_names) or None,
                todo="one folder of pictures per class, or a Parquet table with a column of labels",
            )

    def split(self, fraction: float, *, seed: int) -> tuple["LabelledPictures", "LabelledPictures"]:
        """Draws a part of every class for validation, at least one picture; returns (the rest, the drawn ones).

        Raises:
            ConfigError: when the fraction is not between 0 and 1.
            DataError: when a class has a single picture.
        """
        if not 0 < fraction < 1:
            raise ConfigError("the validation part is a fraction between 0 and 1.", asked=f"val_fraction={fraction}")
        rng, labels, drawn = np.random.default_rng(seed), np.asarray(self.labels), set[int]()
        for label, name in enumerate(self.class_names):
            rows = rng.permutation(np.flatnonzero(labels == label))
            if len(rows) < 2:
                raise DataError(
                    f"class {name!r} has {len(rows)} picture, too few for training and validation.",
                    asked=self.origin,
                    todo="more pictures of it, or a validation part of its own",
                )
            drawn.update(rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)].tolist())
        everything = range(len(labels))
        return self._take([i for i in everything if i not in drawn]), self._take(sorted(drawn))

    def _take(self, rows: list[int]) -> "LabelledPictures":
        return LabelledPictures(
            pictures=[self.pictures[i] for i in rows],
            labels=[self.labels[i] for i in rows],
            class_names=self.class_names,
            origin=self.origin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFormat:
    """States to what a picture is brought: colours, then the shorter side, then the middle.

    Attributes:
        size: (channels, height, width) a model takes; 1 or 3 channels.
        crop_pct: part of the shorter side that is kept.
        interpolation: a name of PIL's, as ``"bicubic"``.
    """

    size: tuple[int, int, int]
    crop_pct: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size[0] not in MODES or self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                "pictures have 1 or 3 channels and are resized in a way that PIL knows.",
                asked=f"{self.size[0]} channels, {self.interpolation}",
                looked=", ".join(INTERPOLATIONS),
            )

    def fit(self, image: Image.Image) -> np.ndarray:
        """Returns the picture as uint8 [C, H, W], as evaluation shows it to a model, before normalisation."""
        channels, height, width = self.size
        image = ImageOps.exif_transpose(image).convert(MODES[channels])
        least = int(min(height, width) / self.crop_pct)
        scale = least / min(image.size)
        if scale != 1:
            sides = [least if side == min(image.size) else int(side * least / min(image.size)) for side in image.size]
            image = image.resize((sides[0], sides[1]), INTERPOLATIONS[self.interpolation])
        left, top = (round((side - wanted) / 2) for side, wanted in zip(image.size, (width, height), strict=True))
        pixels = np.asarray(image.crop((left, top, left + width, top + height)))
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_class_folders(folder: Path, *, class_names: tuple[str, ...] | None = None) -> LabelledPictures:
    """Finds the pictures below a folder that holds one folder per class; hidden and other files are passed over.

    Args:
        folder: of the class folders, whose names are the classes', in alphabetical order.
        class_names: of the training part, for a part that may not bring other classes.

    Raises:
        DataError: when there are no class folders, fewer than two, an empty one, or one of an unknown class.
    """
    homes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = class_names or tuple(home.name for home in homes)
    found: list[tuple[Path, int]] = []
    for home in homes:
        if home.name not in names:
            known = ", ".join(names)
            raise DataError(f"{home.name!r} is no class of the training part.", asked=home, looked=known)
        files = sorted(p for p in home.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not files:
            raise DataError(
                f"the class folder {home.name!r} holds no picture.",
                asked=home,
                looked=f"files ending in {', '.join(sorted(SUFFIXES))}",
                todo="pictures of this class, or remove the folder",
            )
        found += [(file, names.index(home.name)) for file in files]
    return LabelledPictures(
        pictures=[file for file, _ in found],
        labels=[label for _, label in found],
        class_names=names,
        origin=str(folder),
    )


def decode_pictures(pictures: LabelledPictures, form: PictureFormat) -> ImageArrays:
    """Decodes every picture and brings it to the format.

    Raises:
        DataError: naming the first picture that cannot be read.

    Cost: C H W bytes of memory a picture.
    """
    images = np.empty((len(pictures.pictures), *form.size), dtype=np.uint8)
    for row, picture in enumerate(pictures.pictures):
        try:
            with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
                images[row] = form.fit(image)
        except UNREADABLE as error:
            raise DataError(
                "a picture cannot be read.",
                asked=f"{pictures.origin}, row {row}" if isinstance(picture, bytes) else picture,
                looked=error,
                todo="PNG, JPEG or WebP; remove the file where it is damaged",
            ) from error
    labels = torch.tensor(pictures.labels, dtype=torch.long)
    return ImageArrays(images=torch.from_numpy(images), labels=labels, num_classes=len(pictures.class_names))
