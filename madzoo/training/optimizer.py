"""AdamW over groups of parameters: those that decay and those that do not, layer by layer where layers differ."""

import torch
from torch import nn

from madzoo.training.layer_decay import layer_scales
from madzoo.training.recipe import Recipe

__all__ = ["make_optimizer"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Builds AdamW; vectors, biases and what ``model.no_weight_decay()`` names are not decayed.

    Each group carries ``lr_scale``, by which the loop multiplies the learning rate of a step.

    Raises:
        ConfigError: when ``layer_decay`` is asked of a model that does not describe its layers.

    Source: arXiv 1711.05101, algorithm 2.
    """
    kept = getattr(model, "no_weight_decay", set)()
    scales = layer_scales(model, recipe.layer_decay) if recipe.layer_decay != 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, recipe.weight_decay): [], (1.0, 0.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.dim() < 2 or name in kept else recipe.weight_decay
            groups.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    listed = [{"params": p, "lr_scale": scale, "weight_decay": decay} for (scale, decay), p in groups.items()]
    return torch.optim.AdamW(listed, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
