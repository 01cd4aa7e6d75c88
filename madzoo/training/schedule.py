"""The learning rate as a pure function of the step."""

import math

from madzoo.training.recipe import Recipe

__all__ = ["learning_rate"]


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Returns the learning rate of a step: linear warm-up, then a cosine from ``lr`` to ``min_lr``.

    Source: arXiv 1608.03983, equation 5.

    Example:
        >>> r = Recipe(name="a.b", dataset="d", epochs=1, batch_size=1, lr=1.0, warmup_steps=2, loss="mse")
        >>> [round(learning_rate(r, step, 6), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(total_steps - recipe.warmup_steps, 1)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2
