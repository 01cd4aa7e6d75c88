"""Image weights for another number of classes or of channels."""

from typing import Any

from torch import Tensor

from madzoo.layers.stem_channels import adapt_stem_weight

__all__ = ["fit_head_and_stem"]


def fit_head_and_stem(state: dict[str, Tensor], source: Any, target: Any, *, head: str, stem: str) -> dict[str, Tensor]:
    """Returns a state dict without its head where the classes differ, its stem fitted where the channels do.

    Args:
        state: trained with the configuration ``source``.
        source, target: configurations with ``num_classes`` and ``in_chans``.
        head: what the names of the head begin with; it is left out, to be initialised afresh.
        stem: name of the weight that reads the image: summed for one channel, else repeated.
    """
    # Of a bare file ``source`` is a guess: what fits as it is stays.
    if source.num_classes != target.num_classes and not _has(state, f"{head}weight", 0, target.num_classes):
        state = {name: value for name, value in state.items() if not name.startswith(head)}
    if source.in_chans != target.in_chans and not _has(state, stem, 1, target.in_chans):
        state = state | {stem: adapt_stem_weight(state[stem], target.in_chans)}
    return dict(state)


def _has(state: dict[str, Tensor], name: str, axis: int, size: int) -> bool:
    return name in state and state[name].dim() > axis and state[name].shape[axis] == size
