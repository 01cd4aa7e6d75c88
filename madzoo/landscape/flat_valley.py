"""Quadratics on a grid whose bottom is a flat valley: the estimators against the best grid point, known exactly.

Legend: P problems, S step sizes, d dimension; H [P, d, d], c and points [..., P, d]; levels -q ... q, one apart.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError, check_choice

__all__ = [
    "VALLEY_METHODS",
    "Valley",
    "ValleyRun",
    "best_grid_point",
    "best_random_rounding",
    "descend_valley",
    "draw_valley",
    "round_minimiser",
]

VALLEY_METHODS = ("ste", "clipped_ste", "prox_quant")
MAX_POINTS = 2**18


@dataclass(frozen=True, kw_only=True, slots=True)
class Valley:
    """Holds the problems: minimise ``f(p) = (p - c)^T H (p - c) / 2`` over points p of the grid.

    Attributes:
        H: positive semidefinite, largest eigenvalue 1; its null space is the floor of the valley.
        c: a minimiser over the reals, inside the grid's range; all of ``c + null(H)`` are.
        reach: q, the largest level.
    """

    H: Tensor
    c: Tensor
    reach: int

    def round(self, w: Tensor) -> Tensor:
        """Returns the nearest grid point, [..., P, d]; ties go to the even level."""
        return w.round().clamp(-self.reach, self.reach)

    def loss(self, points: Tensor) -> Tensor:
        """Returns f, [..., P]."""
        return 0.5 * ((points - self.c) * self.gradient(points)).sum(-1)

    def gradient(self, points: Tensor) -> Tensor:
        """Returns H (p - c), [..., P, d]."""
        return torch.einsum("pij,...pj->...pi", self.H, points - self.c)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValleyRun:
    """States what a descent found and did, every field [S, P].

    Attributes:
        last: loss of the rounded latent at the end.
        best: the smallest loss of a rounded latent met.
        flip_frequency: changes of the rounded latent per element and step, second half.
        latent_distance: mean of abs(w - q(w)) over elements, second half.
        mean_gradient: norm of the gradient at the mean of q over all steps.
        telescoped: norm of (w_0 - w_T) / (lr T), which equals ``mean_gradient`` for the plain estimator.
        off_valley: how far the latent has moved along the floor, the norm of the null space's part of w_T - w_0.
    """

    last: Tensor
    best: Tensor
    flip_frequency: Tensor
    latent_distance: Tensor
    mean_gradient: Tensor
    telescoped: Tensor
    off_valley: Tensor


def draw_valley(count: int, *, dim: int, rank: int, reach: int = 1, seed: int = 0) -> Valley:
    """Draws problems: a random frame, eigenvalues uniform in [0.1, 1] scaled to a largest of 1, a uniform minimiser.

    Raises:
        ConfigError: unless 1 <= rank <= dim and reach >= 1.
    """
    if not 1 <= rank <= dim or reach < 1:
        raise ConfigError("1 <= rank <= dim and reach >= 1 must hold.", asked=f"{rank=}, {dim=}, {reach=}")
    draw = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(count, dim, rank, generator=draw, dtype=torch.float64)).Q
    sizes = 0.1 + 0.9 * torch.rand(count, 1, rank, generator=draw, dtype=torch.float64)
    half = frame * (sizes / sizes.amax(-1, keepdim=True)).sqrt()
    c = reach * (2 * torch.rand(count, dim, generator=draw, dtype=torch.float64) - 1)
    return Valley(H=half @ half.mT, c=c, reach=reach)


def best_grid_point(valley: Valley) -> Tensor:
    """Returns the smallest loss over the whole grid, [P].

    Raises:
        ConfigError: when the grid has more than 2^18 points.

    Cost: (2 q + 1)^d evaluations a problem.
    """
    levels, dim = range(-valley.reach, valley.reach + 1), valley.c.shape[-1]
    if len(levels) ** dim > MAX_POINTS:
        raise ConfigError("the grid is too large to try every point.", asked=f"{len(levels)} levels, d = {dim}")
    points = torch.tensor(list(itertools.product(levels, repeat=dim)), dtype=valley.c.dtype)
    squares = (points.unsqueeze(2) * points.unsqueeze(1)).flatten(1) @ valley.H.flatten(1).mT  # p^T H p, all at once
    pulls = points @ torch.einsum("pij,pj->pi", valley.H, valley.c).mT
    at_zero = valley.loss(torch.zeros_like(valley.c))
    return ((0.5 * squares - pulls).amin(0) + at_zero).clamp(min=0)


def round_minimiser(valley: Valley) -> Tensor:
    """Returns the loss of rounding the minimiser c, which is quantization after training, [P]."""
    return valley.loss(valley.round(valley.c))


def best_random_rounding(valley: Valley, draws: int, *, seed: int = 0) -> Tensor:
    """Returns the smallest loss of so many stochastic roundings of c (up with the probability of the fraction), [P]."""
    generator = torch.Generator().manual_seed(seed)
    best = valley.loss(valley.round(valley.c))
    for _ in range(draws):
        up = torch.rand(valley.c.shape, generator=generator, dtype=valley.c.dtype) < valley.c - valley.c.floor()
        best = torch.minimum(best, valley.loss(valley.round(valley.c.floor() + up)))
    return best


def descend_valley(
    valley: Valley, lr: Tensor, *, method: str = "ste", steps: int = 1000, pull: float = 1.0
) -> ValleyRun:
    """Runs an estimator from the minimiser c, as training goes on from a trained network.

    ``"ste"``: ``w <- w - lr grad f(q(w))``. ``"clipped_ste"``: the same, only where abs(w) <= q. ``"prox_quant"``:
    ``w <- prox(w - lr grad f(w))``, which moves w towards its nearest level by at most lr times a strength that grows
    from 0 to ``pull``.

    Two facts hold exactly for the plain estimator, because all its steps lie in the range of H: the latent never moves
    along the floor of the valley (``off_valley`` is 0), and the mean of q over T steps has the gradient
    (w_0 - w_T) / (lr T). So wherever the latent stays bounded, the mean of q tends to a minimiser over the reals.

    Args:
        valley: the problems.
        lr: step sizes.
        method: one of :data:`VALLEY_METHODS`.
        steps: gradients taken.
        pull: of ``prox_quant`` alone.

    Shapes:
        lr [S] -> every field [S, P].

    Raises:
        ConfigError: on an unknown method, or fewer than two steps.

    Source: clipped, arXiv 1609.07061, equation 4; ProxQuant, arXiv 1810.00861, algorithm 1.
    """
    check_choice("method", method, VALLEY_METHODS)
    if steps < 2:
        raise ConfigError("a descent takes at least two steps.", asked=f"steps={steps}")
    size, move = lr.to(valley.c.dtype).view(-1, 1, 1), _MOVES[method]
    w = start = valley.c.expand(len(lr), *valley.c.shape)
    q = valley.round(w)
    total, best = torch.zeros_like(w), valley.loss(q)
    flips, distance = torch.zeros_like(best), torch.zeros_like(best)
    for step in range(steps):
        total = total + q
        w = move(valley, w, size, pull * (step + 1) / steps)
        after = valley.round(w)
        best = torch.minimum(best, valley.loss(after))
        if step >= steps // 2:
            flips = flips + (after != q).to(w.dtype).mean(-1)
            distance = distance + (w - after).abs().mean(-1)
        q = after
    counted, moved = steps - steps // 2, w - start
    range_part = torch.einsum("pij,...pj->...pi", valley.H @ torch.linalg.pinv(valley.H, hermitian=True), moved)
    return ValleyRun(
        last=valley.loss(q),
        best=best,
        flip_frequency=flips / counted,
        latent_distance=distance / counted,
        mean_gradient=valley.gradient(total / steps).norm(dim=-1),
        telescoped=moved.norm(dim=-1) / (size.squeeze(-1) * steps),
        off_valley=(moved - range_part).norm(dim=-1),
    )


def _plain(valley: Valley, w: Tensor, lr: Tensor, _: float) -> Tensor:
    return w - lr * valley.gradient(valley.round(w))


def _clipped(valley: Valley, w: Tensor, lr: Tensor, _: float) -> Tensor:
    return w - lr * valley.gradient(valley.round(w)) * (w.abs() <= valley.reach)


def _proximal(valley: Valley, w: Tensor, lr: Tensor, strength: float) -> Tensor:
    w = w - lr * valley.gradient(w)
    away = w - valley.round(w)
    return w - away.clamp(-lr * strength, lr * strength)


_MOVES: dict[str, Callable[[Valley, Tensor, Tensor, float], Tensor]] = {
    "ste": _plain,
    "clipped_ste": _clipped,
    "prox_quant": _proximal,
}
