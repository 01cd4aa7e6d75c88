"""The straight-through estimator on two levels, where what it does in the long run is known in closed form."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madzoo.errors import ConfigError

__all__ = ["TwoLevelOrbit", "two_level_orbit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoLevelOrbit:
    """States what the quantized value does on the orbit, one element per problem.

    Attributes:
        mean: of q over the steps counted; c in the limit.
        flip_frequency: share of steps at which q changes; 1 - abs(c) in the limit.
        tolerance: both are closer to their limits than this, for all problems, from the start that they had; see
            :func:`two_level_orbit`.
    """

    mean: Floats
    flip_frequency: Floats
    tolerance: float


def two_level_orbit(
    c: ArrayLike, lr: ArrayLike, *, start: ArrayLike = 0.0, steps: int = 300_000, settle: int = 0
) -> TwoLevelOrbit:
    """Minimises ``(q - c)^2 / 2`` over q in {-1, 1} by straight-through steps on a latent w.

    ``q = sign(w)`` (1 at zero) and ``w <- w - lr (q - c)``: the gradient at q, applied to w.

    For abs(c) < 1 the latent never rests, and yet its averages are known, in the limit whatever lr and the start:

    - *Bounded.* A step from w >= 0 goes down by lr (1 - c), one from w < 0 up by lr (1 + c). So w reaches the other
      side of zero from anywhere, and stays in [-lr (1 - c), lr (1 + c)) from then on. Averages from there on:
    - *Mean.* The steps telescope: the sum of (q - c) over T steps is (w_0 - w_T) / lr, below 2 in size on that
      interval. Hence mean q = c up to 2 / T.
    - *Flips.* Let c >= 0 (else mirror). From w < 0 on the interval a step leads to w + lr (1 + c) >= 2 lr c >= 0:
      the rarer level -1 never comes twice in a row. It is entered and left each time, so q flips twice per visit.
      Its share is (1 - mean) / 2, hence the flip frequency is 1 - mean q = 1 - abs(c), up to 3 / T.
    - *Before.* Of a start that lies e lr off the interval, abs(w_0 - w_T) / lr is at most e + 2, and the e / (1 - c)
      + 1 steps from above (1 + c in place of 1 - c from below) until it is reached lack at most e + 1 flips. So mean
      and flips are right up to (e + 4) / T when these steps are counted, as they are without ``settle``.

    Args:
        c: targets, abs(c) < 1.
        lr: step sizes, positive.
        start: first latents.
        steps: T, counted.
        settle: steps before, not counted; abs(start) / (lr (1 - abs(c))), rounded up, reach the interval, and the
            tolerance is then 3 / T.

    Shapes:
        c, lr, start: any that broadcast together; the results have the common shape.

    Raises:
        ConfigError: when a target is no inner one, a step size is not positive and finite, a start is not finite, or
            no step is counted.

    Cost: about 5 microseconds a step for a few dozen problems.

    Example:
        >>> two_level_orbit(0.5, [0.1, 10.0], steps=4000).flip_frequency
        array([0.5, 0.5])
    """
    c, lr, w = (np.array(x) for x in np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (c, lr, start))))
    is_known = (np.abs(c) < 1).all() and (lr > 0).all() and np.isfinite(lr).all() and np.isfinite(w).all()
    if not is_known or steps < 1 or settle < 0:
        raise ConfigError(
            "the orbit is known for abs(c) < 1, finite lr > 0, a finite start and at least one step.",
            asked=f"{c=}, {lr=}, start={w}, {steps=}, {settle=}",
        )
    up, down = lr * (1 + c), lr * (1 - c)
    for _ in range(settle):
        w += np.where(w >= 0, -down, up)
    tolerance = _tolerance(w, up, down, lr) / steps
    high, flips = np.zeros(w.shape, dtype=int), np.zeros(w.shape, dtype=int)
    before = w >= 0
    for _ in range(steps):
        high += before
        w += np.where(before, -down, up)
        after = w >= 0
        flips += after != before
        before = after
    return TwoLevelOrbit(mean=2 * high / steps - 1, flip_frequency=flips / steps, tolerance=tolerance)


def _tolerance(w: Floats, up: Floats, down: Floats, lr: Floats) -> float:
    """Returns the proof's bound times the number of steps, the largest of all problems."""
    is_inside = (w >= -down) & (w < up)
    off = np.maximum(np.maximum(w - up, -down - w), 0) / lr
    return float(np.max(np.where(is_inside, 3.0, off + 4.0), initial=3.0))
