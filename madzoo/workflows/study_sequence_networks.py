"""The two networks of the study of quantized recurrences: pixels in raster order in, logits out.

B batch, L pixels (784 for a whole picture), D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from madzoo.layers import S4D, Mamba, RMSNorm
from madzoo.layers.weight_decay import named_by_layers

__all__ = ["NETWORKS", "PixelClassifier"]

CLASSES = 10


class PixelClassifier(nn.Module):
    """Reads one pixel a step: pre-norm residual blocks around one kind of mixer, the mean over positions, a head.

    Args:
        d_model: width D.
        mixer: makes the mixer of a block from the width.
        depth: number of blocks.

    Shapes:
        pictures [B, 1, H, W] or pixels [B, L] -> logits [B, 10].
    """

    def __init__(self, d_model: int, mixer: Callable[[int], nn.Module], *, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, d_model)
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in range(depth))
        self.mixers = nn.ModuleList(mixer(d_model) for _ in range(depth))
        self.norm, self.head = RMSNorm(d_model), nn.Linear(d_model, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        return self.head(self._read(x).mean(1))

    def logits_after(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Returns the logits on the first so many pixels, for several lengths by one pass, as all mixers are causal.

        Shapes:
            pixels [B, L] -> [B, T, 10] for T lengths.
        """
        sums_BLD = self._read(x).cumsum(1)
        return self.head(torch.stack([sums_BLD[:, length - 1] / length for length in lengths], 1))

    def _read(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1).unsqueeze(-1))
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            h = h + mixer(norm(h))
        return self.norm(h)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return named_by_layers(self)


def s4d() -> nn.Module:
    """Builds three S4D blocks of width 48, 8 conjugate pairs a channel."""
    return PixelClassifier(48, lambda d: S4D(d, d_state=16), depth=3)


def mamba() -> nn.Module:
    """Builds two Mamba-1 blocks of width 40, 16 states a channel."""
    return PixelClassifier(40, lambda d: Mamba(d), depth=2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"s4d": s4d, "mamba": mamba}
