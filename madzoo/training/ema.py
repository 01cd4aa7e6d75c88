"""An exponential moving average of a model's weights."""

import copy

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Follows a model with a slow copy of its weights; buffers are copied as they are.

    The decay warms up as ``min(decay, (1 + t) / (10 + t))`` after t updates, so that early weights are forgotten.

    Args:
        model: the model to follow; it is copied.
        decay: of the average, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model's present weights; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for kept, present in zip(self.module.parameters(), model.parameters(), strict=True):
            kept.lerp_(present, 1 - decay)
        for kept, present in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(present)
