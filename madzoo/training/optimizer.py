"""AdamW over two groups of parameters: those that decay and those that do not."""

import torch
from torch import nn

from madzoo.training.recipe import Recipe

__all__ = ["make_optimizer"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Builds AdamW; vectors, biases and what ``model.no_weight_decay()`` names are not decayed.

    Source: arXiv 1711.05101, algorithm 2.
    """
    named = getattr(model, "no_weight_decay", set)()
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.dim() < 2 or name in named else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
