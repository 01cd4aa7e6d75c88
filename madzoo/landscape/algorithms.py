"""The algorithms that trajectories are run with, over any leading axes: what a step does, and what makes it noisy.

Legend: theta, g [S, K, P]: S step sizes, K seeds, P parameters; m residuals; b rows of a mini-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError, check_choice

__all__ = ["ALGORITHMS", "NOISES", "Algorithm", "Noise", "draw_noise", "make_update", "perturb_residual"]

ALGORITHMS = ("gd", "momentum", "adam", "adamw", "sam")
NOISES = ("none", "minibatch", "label", "isotropic")
AHEAD = 500  # steps whose noise is drawn at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """States an update rule; ``"gd"`` with noise is SGD.

    Attributes:
        name: one of :data:`ALGORITHMS`.
        momentum: of ``"momentum"``, and Adam's first beta.
        beta2, epsilon: of Adam.
        weight_decay: of ``"adamw"``, decoupled.
        rho: of ``"sam"``, the length of its step uphill.

    Raises:
        ConfigError: on an unknown name, or a number out of its range.

    Source: Adam, arXiv 1412.6980, algorithm 1; AdamW, arXiv 1711.05101, algorithm 2; SAM, arXiv 2010.01412,
        algorithm 1.
    """

    name: str = "gd"
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    rho: float = 0.05

    def __post_init__(self) -> None:
        check_choice("algorithm", self.name, ALGORITHMS)
        if not (0 <= self.momentum < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise ConfigError("momentum and beta2 lie in [0, 1), epsilon above 0.", asked=self)
        if self.rho < 0 or self.weight_decay < 0:
            raise ConfigError("rho and weight_decay are at least 0.", asked=self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """States what makes a gradient noisy.

    Attributes:
        kind: ``"none"``; ``"minibatch"``: ``batch`` of the m rows, without replacement, times m / batch; ``"label"``:
            the gradient is ``J^T (r - scale xi)``; ``"isotropic"``: ``J^T r + scale xi``; xi of independent normals.
        scale, batch: see above.

    Raises:
        ConfigError: on an unknown kind, or when a kind lacks its number or has another's.
    """

    kind: str = "none"
    scale: float = 0.0
    batch: int = 0

    def __post_init__(self) -> None:
        check_choice("noise", self.kind, NOISES)
        wants_scale, wants_batch = self.kind in ("label", "isotropic"), self.kind == "minibatch"
        if (self.scale > 0) != wants_scale or (self.batch > 0) != wants_batch:
            raise ConfigError("label and isotropic noise have a scale, minibatch a batch, none neither.", asked=self)


def draw_noise(noise: Noise, seeds: Sequence[int], *, rows: int, columns: int) -> Iterator[Tensor | None]:
    """Yields the noise of every step: [K, m] or [K, P]; of a mini-batch the weights of the rows, [K, m].

    Every seed has a generator of its own, so that a seed's path does not depend on the seeds beside it.

    Raises:
        ConfigError: when the mini-batch is larger than the rows.
    """
    if noise.batch > rows:
        raise ConfigError("the mini-batch has more rows than the objective.", asked=noise.batch, looked=rows)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = columns if noise.kind == "isotropic" else rows
    while True:
        if noise.kind == "none":
            yield None
            continue
        draw = torch.rand if noise.kind == "minibatch" else torch.randn
        ahead = torch.stack([draw(AHEAD, size, generator=g, dtype=torch.float64) for g in generators], dim=1)
        if noise.kind == "minibatch":
            ahead = (ahead.argsort(-1).argsort(-1) < noise.batch).double() * (rows / noise.batch)
        else:
            ahead = noise.scale * ahead
        yield from ahead


def perturb_residual(noise: Noise, r: Tensor, drawn: Tensor | None) -> Tensor:
    """Returns what ``J^T`` is applied to: the residual, that of a mini-batch, or that of noisy labels."""
    if drawn is None or noise.kind == "isotropic":
        return r
    return r * drawn if noise.kind == "minibatch" else r - drawn


def make_update(algorithm: Algorithm, lr: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the map (theta, g) -> next theta, which keeps its own averages; SAM's uphill step is the caller's.

    Shapes:
        lr: anything that broadcasts with theta.
    """
    if algorithm.name in ("gd", "sam"):
        return lambda theta, g: theta - lr * g
    return _momentum(algorithm, lr) if algorithm.name == "momentum" else _adam(algorithm, lr)


def _momentum(algorithm: Algorithm, lr: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    average: Tensor | float = 0.0

    def update(theta: Tensor, g: Tensor) -> Tensor:
        nonlocal average
        average = algorithm.momentum * average + g
        return theta - lr * average

    return update


def _adam(algorithm: Algorithm, lr: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0
    taken, beta1, beta2 = 0, algorithm.momentum, algorithm.beta2
    keep = 1 - lr * algorithm.weight_decay if algorithm.name == "adamw" else 1.0

    def update(theta: Tensor, g: Tensor) -> Tensor:
        nonlocal first, second, taken
        taken += 1
        first = beta1 * first + (1 - beta1) * g
        second = beta2 * second + (1 - beta2) * g * g
        size = (second / (1 - beta2**taken)).sqrt() + algorithm.epsilon
        return keep * theta - lr * first / (1 - beta1**taken) / size

    return update
