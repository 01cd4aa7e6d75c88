"""Layer-wise learning rates: a network's early layers, which know the most, move the least.

A model describes its layers as timm's models do, by ``group_matcher()``: patterns of parameter names, in order from
the stem to the last block. What no pattern names (the last norm, the head) is the last layer.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from madzoo.errors import ConfigError

__all__ = ["layer_scales"]

LAST = (float("inf"),)
JOINS_FORMER = 99999  # timm's mark for parameters that belong to the layer before them


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Returns the factor of every parameter's learning rate: ``decay`` to the power of its distance from the head.

    Source: arXiv 2106.08254, appendix; arXiv 1801.06146, section 3.2.

    Raises:
        ConfigError: when the model does not describe its layers.

    Example:
        >>> class Small(nn.Sequential):
        ...     def group_matcher(self, coarse=False):
        ...         return {"stem": r"^0", "blocks": r"^(1)"}
        >>> layer_scales(Small(*(nn.Linear(1, 1, bias=False) for _ in range(3))), 0.5)
        {'0.weight': 0.25, '1.weight': 0.5, '2.weight': 1.0}
    """
    describe: Any = getattr(model, "group_matcher", None)
    if describe is None:
        raise ConfigError(
            "the model does not describe its layers.",
            asked=f"layer-wise learning rates of {type(model).__name__}",
            todo="layer_decay=1, or a model with timm's group_matcher()",
        )
    places = {name: _place(name, describe(coarse=False)) for name, _ in model.named_parameters()}
    numbers: dict[tuple[float, ...], int] = {}
    for place in sorted(set(places.values())):
        numbers[place] = len(set(numbers.values())) - (bool(numbers) and place[-1] == JOINS_FORMER)
    last = max(numbers.values(), default=0)
    return {name: decay ** (last - numbers[place]) for name, place in places.items()}


def _place(
    name: str, matcher: Mapping[str, str | Sequence[tuple[str, tuple[int, ...] | None]] | None]
) -> tuple[float, ...]:
    """Returns where a parameter stands: its group, the numbers in its name, and the pattern's own."""
    for group, entry in enumerate(matcher.values()):
        for pattern, suffix in [(entry, None)] if isinstance(entry, str) else entry or ():
            if found := re.match(pattern, name):
                return (float(group), *(float(number) for number in found.groups()), *map(float, suffix or ()))
    return LAST
