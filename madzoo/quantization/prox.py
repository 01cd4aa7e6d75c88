"""ProxQuant: no gradient is invented; after every step the weights are pulled towards their nearest level.

Legend: w weights, q(w) their nearest levels, s scale, t step, T all steps.
"""

from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid, round_to_grid, spread

__all__ = ["ProxSchedule", "prox"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxSchedule:
    """States how far each step pulls, in units of the scale: linearly more, at last all the way.

    Attributes:
        total_steps: of the training, T.
        strength: the pull of the last soft step; a weight between two levels is at most half a scale from one.
        hard_from: share of the steps after which weights are put on their levels, and stay unless a step takes them
            past the middle between two.

    Raises:
        ConfigError: on no step or part of one, a negative strength, or a share outside [0, 1].

    Example:
        >>> schedule = ProxSchedule(total_steps=100, strength=0.1, hard_from=0.8)
        >>> schedule.pull(40), schedule.pull(80), schedule.pull(81)
        (0.05, 0.1, inf)
    """

    total_steps: int
    strength: float = 0.05
    hard_from: float = 0.8

    def __post_init__(self) -> None:
        is_count = isinstance(self.total_steps, int) and not isinstance(self.total_steps, bool) and self.total_steps > 0
        are_numbers = isinstance(self.strength, Real) and isinstance(self.hard_from, Real)
        if not (is_count and are_numbers and 0 <= self.strength < torch.inf and 0 <= self.hard_from <= 1):
            why = "total_steps >= 1, a whole number, strength >= 0 and 0 <= hard_from <= 1 must hold."
            raise ConfigError(why, asked=self)

    def pull(self, step: int) -> float:
        """Returns the pull after a step, counted from 1."""
        soft = self.hard_from * self.total_steps
        return self.strength * step / soft if step <= soft and step < self.total_steps else torch.inf


def prox(w: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor | None = None, *, pull: float) -> Tensor:
    """Moves every weight towards its nearest level by ``pull * scale``, or onto it when it is nearer than that.

    This is the proximal operator of ``pull * scale * |w - q(w)|``, the sharp W-shaped regularizer.

    Args:
        w: weights.
        grid: its levels.
        scale: of each row.
        zero_point: of each row of an affine grid.
        pull: in units of the scale; infinity rounds.

    Shapes:
        w [...], scale, zero_point [R, 1] -> [...].

    Source: arXiv 1810.00861, section 3: the operator of binary weights, with all levels of the grid in place of two.

    Example:
        >>> prox(torch.tensor([0.4, 0.9, -1.5]), Grid(bits=2, axis=None), torch.ones(1, 1), pull=0.25)
        tensor([ 0.1500,  1.0000, -1.2500])
    """
    level = round_to_grid(w, grid, scale, zero_point)
    if pull == torch.inf:
        return level
    rest = w - level
    reach = spread(pull * scale, w, grid).to(w.dtype)
    return torch.where(rest.abs() <= reach, level, w - rest.sign() * reach)
