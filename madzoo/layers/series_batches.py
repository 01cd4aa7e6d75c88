"""Series of different lengths in batches: each at its own length, or padded to the longest of its batch.

Axes: B series, L length, C channels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from madzoo.layers.past_values import fit_context

__all__ = ["batch_series"]


def batch_series(series: Sequence[Tensor] | Tensor, size: int, *, pad: bool) -> Iterator[tuple[list[int], Tensor]]:
    """Yields places and series [B, L, C], at most ``size`` at a time.

    Args:
        series: a tensor [B, L, C], in whose order batches then are, or a list of [L, C].
        size: of a batch.
        pad: put series of different lengths together, NaN to the left of the shorter ones. They are sorted by length
            first, so that little is padded. Otherwise a batch holds series of one length.

    Example:
        >>> ragged = [torch.zeros(3, 1), torch.zeros(1, 1), torch.zeros(2, 1)]
        >>> [(places, list(x.shape)) for places, x in batch_series(ragged, 2, pad=True)]
        [([1, 2], [2, 2, 1]), ([0], [1, 3, 1])]
    """
    if isinstance(series, Tensor):
        for start in range(0, len(series), size):
            part = series[start : start + size]
            yield list(range(start, start + len(part))), part
        return
    for places in _groups([len(one) for one in series], together=pad):
        for start in range(0, len(places), size):
            chosen = places[start : start + size]
            longest = max(len(series[place]) for place in chosen)
            yield chosen, torch.stack([fit_context(series[place], longest, dim=0) for place in chosen])


def _groups(lengths: Sequence[int], *, together: bool) -> list[list[int]]:
    if together:
        return [sorted(range(len(lengths)), key=lengths.__getitem__)]
    by_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        by_length.setdefault(length, []).append(place)
    return list(by_length.values())
