"""Stem weights for another number of image channels."""

from torch import Tensor

__all__ = ["adapt_stem_weight"]


def adapt_stem_weight(weight: Tensor, in_chans: int) -> Tensor:
    """Returns a stem's convolution weight for ``in_chans`` channels, as timm adapts it.

    One channel: the sum over the old ones. Other numbers: the old ones repeated in turn and scaled by old / new, so
    that a multiple of the old number answers to repeated channels as before.

    Shapes:
        [D, C, K, K] -> [D, in_chans, K, K].

    Example:
        >>> import torch
        >>> adapt_stem_weight(torch.ones(8, 3, 4, 4), 1)[0, 0, 0, 0].item()
        3.0
    """
    old = weight.shape[1]
    if in_chans == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-in_chans // old), 1, 1)[:, :in_chans]
    return repeated * (old / in_chans)
