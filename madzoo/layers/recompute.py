"""Blocks run one after the other, in training optionally without keeping what they compute in between."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["run_blocks"]


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """Runs blocks in turn.

    Args:
        blocks: what to run.
        x: the input of the first.
        recompute: keep the inputs of the blocks alone and compute the rest again in the backward pass: less memory,
            the same outputs, gradients and running statistics.

    Cost: with ``recompute``, one more forward pass of every block.
    """
    for block in blocks:
        x = _lightly(block, x) if recompute and torch.is_grad_enabled() else block(x)
    return x


def _lightly(block: nn.Module, x: Tensor) -> Tensor:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return cast(Tensor, checkpoint(block, x, use_reentrant=False))

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_at_rest(norms)

    return cast(Tensor, checkpoint(block, x, use_reentrant=False, context_fn=contexts))


@contextmanager
def _statistics_at_rest(norms: list[_BatchNorm]) -> Iterator[None]:
    # The second run of a block sees the batch a second time; running statistics must not. They stay in the graph: the
    # second run has to save what the first has saved.
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
