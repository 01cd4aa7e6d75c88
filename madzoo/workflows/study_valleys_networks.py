"""Two small networks that read pictures row by row and fit one-hot labels by squares, and the pictures themselves.

Legend: pictures [n, 14, 14], a row of pixels a step; targets one-hot [n, 10].
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.data.catalog import find_dataset
from madzoo.data.images import ImageArrays
from madzoo.data.load import load_image_split
from madzoo.errors import DataError
from madzoo.layers import S4D, Mamba, RMSNorm
from madzoo.workflows.study_valleys_protocol import Protocol

__all__ = ["NETWORKS", "Pictures", "RowFitter", "build", "half_square", "load_pictures"]

CLASSES, WIDTH = 10, 14


class Pictures(NamedTuple):
    """Holds the pictures and one-hot targets that are fitted, those tested with labels, and unseen ones without."""

    train: Tensor
    targets: Tensor
    test: Tensor
    labels: Tensor
    fresh: Tensor

    @property
    def fingerprint(self) -> str:
        """Hashes all of it."""
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in self)).hexdigest()[:16]


class RowFitter(nn.Module):
    """A linear stem, one pre-norm residual block around a sequence mixer, the mean over the rows, a linear head."""

    def __init__(self, d_model: int, mixer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(WIDTH, d_model), RMSNorm(d_model)
        self.mixer, self.head = mixer(d_model), nn.Linear(d_model, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures [B, 14, 14] to answers [B, 10]."""
        h = self.stem(x)
        return self.head((h + self.mixer(self.norm(h))).mean(1))


# Both of some thousand parameters, so that whole Jacobians are cheap; wider than the ten answers, so that they can fit.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "s4d": lambda: RowFitter(12, lambda d: S4D(d, d_state=8, dt_min=0.01, dt_max=0.3)),
    "mamba": lambda: RowFitter(12, lambda d: Mamba(d, d_state=4, expand=1, dt_min=0.01, dt_max=0.3)),
}


def build(network: str, seed: int) -> nn.Module:
    """Builds a network with the weights that a seed draws; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[network]()


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns half the squared distance of a sample's answer from its target, the mean over the samples."""
    return 0.5 * (outputs - targets).square().sum(-1).mean()


def load_pictures(protocol: Protocol, *, folder: Path | str | None = None) -> Pictures:
    """Reads, halves and standardises the pictures; the parts share none.

    Raises:
        DataError: when the data set is missing, or has too few pictures.
    """
    spec, count = find_dataset(protocol.dataset), protocol.train + protocol.fresh
    seen, seen_labels = _draw(load_image_split(spec, "train", folder=folder), count)
    test, labels = _draw(load_image_split(spec, "test", folder=folder), protocol.test)
    mean, std = seen.mean(), seen.std()
    seen, test = (seen - mean) / std, (test - mean) / std
    targets = F.one_hot(seen_labels[: protocol.train], CLASSES).float()
    return Pictures(seen[: protocol.train], targets, test, labels, seen[protocol.train :])


def _draw(images: ImageArrays, count: int) -> tuple[Tensor, Tensor]:
    if count > len(images):
        raise DataError("the part has too few pictures.", asked=count, looked=len(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return F.avg_pool2d(images.images[order].float() / 255, 2)[:, 0], images.labels[order]
