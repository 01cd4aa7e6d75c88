"""Label noise on (a b - 1)^2 / 2: how fast the imbalance C = a^2 - b^2 must decay, and how fast it does.

Legend: eta step size, sigma standard deviation of the label's noise, lambda = sqrt(C^2 + 4) sharpness of the valley.
"""

import math
from dataclasses import dataclass

import numpy as np

from madzoo.errors import ConfigError

__all__ = ["Slide", "predicted_steps", "predicted_rate", "slide"]

POINTS = 4001
AHEAD = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Slide:
    """States what 400 paths did, or however many.

    Attributes:
        steps: taken.
        log_decay, stderr: mean over the paths of ``-log(C_T / C_0)``, and its standard error. Paths that diverged or
            whose C changed its sign are left out, and counted.
        squares, squares_stderr: mean of ``a^2 + b^2`` at the end, of the paths that did not diverge.
        diverged: paths whose abs(a b) came above 1e8, or is no number.
        crossed: other paths whose C has the other sign at the end, so that it has no log-decay.
    """

    steps: int
    log_decay: float | None
    stderr: float | None
    squares: float | None
    squares_stderr: float | None
    diverged: int
    crossed: int


def predicted_rate(imbalance: np.ndarray, *, lr: float, sigma: float) -> np.ndarray:
    """Returns the predicted decay of log C per step, ``2 eta^2 sigma^2 / (2 - eta lambda)``.

    A step multiplies C by exactly ``1 - eta^2 g^2`` with ``g = u - sigma xi``, ``u = a b - 1``. Near the valley
    ``u <- (1 - eta lambda) u + eta lambda sigma xi``, whose stationary variance is
    ``eta lambda sigma^2 / (2 - eta lambda)``; so ``E g^2 = 2 sigma^2 / (2 - eta lambda)``. To leading order in eta that
    is sigma^2, and the rate ``eta^2 sigma^2``.

    Raises:
        ConfigError: where ``eta lambda >= 2``: there the path cannot stay near the valley.
    """
    sharpness = np.sqrt(np.square(imbalance) + 4)
    if np.max(lr * sharpness) >= 2:
        raise ConfigError("lr times the sharpness must be below 2.", asked=float(np.max(lr * sharpness)))
    return 2 * lr**2 * sigma**2 / (2 - lr * sharpness)


def predicted_steps(start: tuple[float, float], *, lr: float, sigma: float, log_decay: float) -> int:
    """Integrates the predicted rate until log C has fallen by so much; returns the steps."""
    gone = np.linspace(0, log_decay, POINTS)
    slowness = 1 / predicted_rate((start[0] ** 2 - start[1] ** 2) * np.exp(-gone), lr=lr, sigma=sigma)
    return round(float(np.trapezoid(slowness, gone)))


def slide(start: tuple[float, float], *, lr: float, sigma: float, steps: int, paths: int, seed: int) -> Slide:
    """Runs SGD with label noise, ``(a, b) <- (a, b) - lr (a b - 1 - sigma xi) (b, a)``, and measures the decay.

    Args:
        start: (a, b) with a > b.
        lr, sigma: see above.
        steps: taken by each path.
        paths: independent ones.
        seed: of xi.

    Raises:
        ConfigError: unless a > abs(b), and there are steps and two paths.

    Cost: some 10 microseconds a step for hundreds of paths.
    """
    if not start[0] > abs(start[1]) or steps < 1 or paths < 2:
        raise ConfigError("a > abs(b), at least one step and two paths.", asked=(start, steps, paths))
    draw = np.random.default_rng(seed)
    a, b = (np.full(paths, value) for value in start)
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, steps, AHEAD):
            for label in 1 + sigma * draw.standard_normal((min(AHEAD, steps - first), paths)):
                g = lr * (a * b - label)
                a, b = a - g * b, b - g * a
        diverged = ~(np.abs(a * b) < 1e8)
    a, b = a[~diverged], b[~diverged]
    left = (a**2 - b**2) / (start[0] ** 2 - start[1] ** 2)
    decay = _mean_and_error(-np.log(left[left > 0]))
    squares = _mean_and_error(a**2 + b**2)
    return Slide(
        steps=steps,
        log_decay=decay[0],
        stderr=decay[1],
        squares=squares[0],
        squares_stderr=squares[1],
        diverged=int(diverged.sum()),
        crossed=int((left <= 0).sum()),
    )


def _mean_and_error(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    if len(values) < 2:
        return None, None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
