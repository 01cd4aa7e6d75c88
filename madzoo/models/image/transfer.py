"""Image weights under other names, or for another number of classes or of channels."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from madzoo.layers.stem_channels import adapt_stem_weight

__all__ = ["fit_head_and_stem", "rename_keys"]


def fit_head_and_stem(state: dict[str, Tensor], source: Any, target: Any, *, head: str, stem: str) -> dict[str, Tensor]:
    """Returns a state dict without its head where the classes differ, its stem fitted where the channels do.

    Args:
        state: trained with the configuration ``source``.
        source, target: configurations with ``num_classes`` and ``in_chans``.
        head: what the names of the head begin with; it is left out, to be initialised afresh.
        stem: name of the weight that reads the image, of a convolution or a linear layer: summed for one channel, else
            repeated.
    """
    # Of a bare file ``source`` is a guess: what fits as it is stays.
    if source.num_classes != target.num_classes and not _has(state, f"{head}weight", 0, target.num_classes):
        state = {name: value for name, value in state.items() if not name.startswith(head)}
    if source.in_chans != target.in_chans and not _has(state, stem, 1, target.in_chans):
        weight = state[stem]
        adapted = adapt_stem_weight(weight.reshape(*weight.shape[:2], -1, 1), target.in_chans)
        state = state | {stem: adapted.reshape(len(weight), target.in_chans, *weight.shape[2:])}
    return dict(state)


def rename_keys(state: dict[str, Tensor], patterns: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Returns a state dict whose names are rewritten by regular expressions, each applied to what the last one left.

    Args:
        state: with an author's names.
        patterns: what to look for, and what to put there.

    Example:
        >>> import torch
        >>> rename_keys({"module.head.weight": torch.zeros(1)}, [("^module[.]", "")]).keys()
        dict_keys(['head.weight'])
    """
    renamed = {}
    for key, value in state.items():
        for pattern, ours in patterns:
            key = re.sub(pattern, ours, key)
        renamed[key] = value
    return renamed


def _has(state: dict[str, Tensor], name: str, axis: int, size: int) -> bool:
    return name in state and state[name].dim() > axis and state[name].shape[axis] == size
