"""Image data sets in memory, and training batches as pure functions of (seed, step).

B batch, C channels, H height, W width, K classes.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from madzoo.errors import DataError

__all__ = ["Augmentation", "ImageArrays", "ImageSteps", "decode_images", "image_batches"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArrays:
    """Holds decoded images and their labels.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n].
        num_classes: K.
    """

    images: Tensor
    labels: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "ImageArrays":
        """Returns the chosen rows."""
        chosen = torch.from_numpy(np.asarray(indices))
        return ImageArrays(images=self.images[chosen], labels=self.labels[chosen], num_classes=self.num_classes)

    def split(self, count: int, *, seed: int) -> tuple["ImageArrays", "ImageArrays"]:
        """Draws ``count`` rows for validation; returns (the rest, the drawn rows).

        Raises:
            DataError: when there are not more rows than that.
        """
        if not 0 < count < len(self):
            raise DataError(f"cannot draw {count} validation rows.", looked=f"{len(self)} rows")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def fingerprint(self) -> str:
        """Returns the sha256 of shape, pixels and labels."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def decode_images(encoded: list[bytes], labels: list[int], *, num_classes: int, channels: int) -> ImageArrays:
    """Decodes PNG or JPEG bytes, all of one size.

    Raises:
        DataError: on bytes that are no image, or images of different sizes.
    """
    mode = "L" if channels == 1 else "RGB"
    decoded = [_decode(data, mode, row) for row, data in enumerate(encoded)]
    if len({image.shape for image in decoded}) != 1:
        raise DataError("the images are not all of one size.", looked=sorted({image.shape for image in decoded})[:4])
    images = torch.from_numpy(np.stack(decoded))
    images = images.unsqueeze(1) if channels == 1 else images.permute(0, 3, 1, 2).contiguous()
    return ImageArrays(images=images, labels=torch.tensor(labels), num_classes=num_classes)


def _decode(data: bytes, mode: str, row: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode))
    except OSError as error:
        raise DataError("an entry is no readable image.", asked=f"row {row}", looked=str(error)) from error


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turns uint8 images [B, C, H, W] into float32 of about zero mean and unit deviation."""
    mean_C11, std_C11 = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean_C11) / std_C11


def image_batches(
    data: ImageArrays, *, mean: tuple[float, ...], std: tuple[float, ...], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields every image once, in order, prepared for a model: (float32 [B, C, H, W], labels [B])."""
    for start in range(0, len(data), batch_size):
        rows = slice(start, start + batch_size)
        yield normalize(data.images[rows], mean, std), data.labels[rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """States how training images are changed.

    Attributes:
        crop_padding: zero pixels added at each side before a random crop of the former size.
        flip: mirrors half of the images.
        mixup, cutmix: Beta parameters; where both are positive, each step draws one of the two.
    """

    crop_padding: int = 0
    flip: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0


class ImageSteps:
    """Gives the training batch of any step; with mixup or cutmix the targets are probabilities [B, K].

    Args:
        data: the training part.
        augmentation: how its images are changed.
        mean, std: normalisation.
        batch_size: over all processes together; the incomplete batch at the end of an epoch's order is not used.
        seed: of order and augmentation.
        rank, world: this process gets every ``world``-th sample of a batch, from ``rank`` on.
    """

    def __init__(
        self,
        data: ImageArrays,
        augmentation: Augmentation,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data, self.augmentation = data, augmentation
        self.mean, self.std = mean, std
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.steps_per_epoch = len(data) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns (float32 [B, C, H, W], labels [B] or probabilities [B, K])."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self._epoch_order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        rows = torch.from_numpy(rows[self.rank :: self.world])
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        images = augment(self.data.images[rows], self.augmentation, rng)
        inputs = normalize(images, self.mean, self.std)
        if self.augmentation.mixup or self.augmentation.cutmix:
            return blend(inputs, self.data.labels[rows], self.data.num_classes, self.augmentation, rng)
        return inputs, self.data.labels[rows]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.data)))
        return self._order[1]


def augment(images: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Crops and mirrors each image of a uint8 batch [B, C, H, W] by its own draw."""
    batch, _, height, width = images.shape
    if pad := augmentation.crop_padding:
        padded = F.pad(images, (pad, pad, pad, pad))
        top, left = (torch.from_numpy(rng.integers(0, 2 * pad + 1, batch)) for _ in range(2))
        y_BH1 = (top[:, None] + torch.arange(height))[:, :, None]
        x_B1W = (left[:, None] + torch.arange(width))[:, None, :]
        images = padded.permute(0, 2, 3, 1)[torch.arange(batch)[:, None, None], y_BH1, x_B1W].permute(0, 3, 1, 2)
    if augmentation.flip:
        mirrored = torch.from_numpy(rng.random(batch) < 0.5).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(-1), images)
    return images


def blend(
    inputs: Tensor, labels: Tensor, num_classes: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixes a batch with its own reverse by mixup or cutmix; returns inputs and probabilities [B, K].

    Source: mixup arXiv 1710.09412; cutmix arXiv 1905.04899, algorithm 1.
    """
    choices = [name for name in ("mixup", "cutmix") if getattr(augmentation, name) > 0]
    choice = choices[rng.integers(len(choices))]
    share = float(rng.beta(getattr(augmentation, choice), getattr(augmentation, choice)))
    if choice == "mixup":
        mixed = share * inputs + (1 - share) * inputs.flip(0)
    else:
        mixed, share = _paste(inputs, share, rng)
    onehot = F.one_hot(labels, num_classes).float()
    return mixed, share * onehot + (1 - share) * onehot.flip(0)


def _paste(inputs: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    height, width = inputs.shape[-2:]
    side = (1 - share) ** 0.5
    y, x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(y + s * height * side / 2, 0, height)) for s in (-1, 1))
    left, right = (int(np.clip(x + s * width * side / 2, 0, width)) for s in (-1, 1))
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
