"""Recovery of a sparse vector: the support exploration algorithm, which is straight-through, and three comparators.

Legend: P problems, m measurements, n columns, k non-zeros; A [P, m, n], y [P, m], x [P, n], support bool [P, n].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from madzoo.errors import ConfigError, check_choice

__all__ = ["RECOVERIES", "SparseProblems", "draw_sparse_problems", "recover_support", "support_exploration"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseProblems:
    """Holds ``min norm(A x - y)`` over k-sparse x, with ``y = A x*``: the answer and its support are known.

    Attributes:
        A: dictionaries, columns of norm 1.
        y: measurements, without noise.
        support: of x*.
        k: its size.
    """

    A: Tensor
    y: Tensor
    support: Tensor
    k: int


def draw_sparse_problems(
    count: int, *, rows: int, columns: int, k: int, correlation: float = 0.0, seed: int = 0
) -> SparseProblems:
    """Draws problems: Gaussian columns, neighbours correlated; uniform supports; values of random sign in [1, 2].

    Args:
        count: problems.
        rows, columns: m and n.
        k: non-zeros.
        correlation: rho; columns i and j have the correlation rho^abs(i - j). 0 gives independent columns.
        seed: of the draws.

    Raises:
        ConfigError: unless 1 <= k <= rows and 0 <= correlation < 1.
    """
    if not 1 <= k <= min(rows, columns) or not 0 <= correlation < 1:
        raise ConfigError("1 <= k <= rows and 0 <= correlation < 1 must hold.", asked=f"{k=}, {rows=}, {correlation=}")
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, rows, columns, generator=draw, dtype=torch.float64)
    A = torch.empty_like(noise)
    A[..., 0] = noise[..., 0]
    for j in range(1, columns):
        A[..., j] = correlation * A[..., j - 1] + (1 - correlation**2) ** 0.5 * noise[..., j]
    A = A / A.norm(dim=1, keepdim=True)
    places = torch.rand(count, columns, generator=draw).argsort(1)[:, :k]
    size = 1 + torch.rand(count, k, generator=draw, dtype=torch.float64)
    sign = torch.randint(2, (count, k), generator=draw) * 2 - 1
    x = torch.zeros(count, columns, dtype=torch.float64).scatter(1, places, size * sign)
    return SparseProblems(A=A, y=torch.einsum("pmn,pn->pm", A, x), support=x != 0, k=k)


def recover_support(problems: SparseProblems, *, method: str, iterations: int = 100) -> Tensor:
    """Tells which supports a method finds exactly, bool [P].

    Args:
        problems: with known supports.
        method: ``"sea"`` support exploration, ``"iht"`` normalised iterative hard thresholding, ``"htp"`` hard
            thresholding pursuit, ``"omp"`` orthogonal matching pursuit.
        iterations: of the first three, each with one gradient; sea and htp also solve k unknowns in each. omp takes
            k, by its definition. The best iterate counts, for all.

    Raises:
        ConfigError: on an unknown method.

    Source: sea, arXiv 2301.13584, algorithm 1; iht, Blumensath and Davies 2010; htp, Foucart 2011; omp, Pati et al.
        1993.
    """
    check_choice("method", method, list(RECOVERIES))
    return (RECOVERIES[method](problems, iterations) == problems.support).all(1)


def support_exploration(problems: SparseProblems, iterations: int, *, step: float = 1.0) -> Tensor:
    """Explores supports by a dense latent X: the straight-through estimator, with "keep the k largest" as rounding.

    From X = 0: S = the k largest of abs(X), x = least squares on S, ``X <- X - step A^T (A x - y)``. The gradient at
    the sparse x moves the dense X, so columns outside S gather what the residual still owes them. As from X = 0 the
    step only scales X, and S does not see scale, the supports are the same for every step: the step size is no
    setting.

    Shapes:
        -> bool [P, n], the support with the smallest residual met.

    Source: arXiv 2301.13584, algorithm 1.
    """
    X = torch.zeros_like(problems.support, dtype=problems.A.dtype)
    keep = _Best(problems)
    for _ in range(iterations):
        places = X.abs().topk(problems.k, dim=1).indices
        x, residual = _least_squares(problems, places)
        keep.see(x, residual)
        X = X - step * torch.einsum("pmn,pm->pn", problems.A, residual)
    return keep.support


def _iterative_thresholding(problems: SparseProblems, iterations: int) -> Tensor:
    """Takes the step that is best along the gradient on the present support: the normalised variant."""
    x, keep = torch.zeros_like(problems.support, dtype=problems.A.dtype), _Best(problems)
    residual = -problems.y
    for done in range(iterations):
        g = torch.einsum("pmn,pm->pn", problems.A, residual)
        places = (x if done else g).abs().topk(problems.k, dim=1).indices
        inside = torch.zeros_like(x).scatter(1, places, g.gather(1, places))
        length = torch.einsum("pmn,pn->pm", problems.A, inside).square().sum(1, keepdim=True)
        size = torch.where(length > 0, inside.square().sum(1, keepdim=True) / length.clamp(min=1e-300), 0.0)
        moved = x - size * g
        places = moved.abs().topk(problems.k, dim=1).indices
        x = torch.zeros_like(x).scatter(1, places, moved.gather(1, places))
        residual = torch.einsum("pmn,pn->pm", problems.A, x) - problems.y
        keep.see(x, residual)
    return keep.support


def _thresholding_pursuit(problems: SparseProblems, iterations: int) -> Tensor:
    """Takes steps of 1, as its author does for columns of norm 1."""
    x, keep = torch.zeros_like(problems.support, dtype=problems.A.dtype), _Best(problems)
    residual = -problems.y
    for _ in range(iterations):
        moved = x - torch.einsum("pmn,pm->pn", problems.A, residual)
        x, residual = _least_squares(problems, moved.abs().topk(problems.k, dim=1).indices)
        keep.see(x, residual)
    return keep.support


def _matching_pursuit(problems: SparseProblems, _: int) -> Tensor:
    residual, chosen = -problems.y, torch.zeros_like(problems.support)
    for size in range(1, problems.k + 1):
        score = torch.einsum("pmn,pm->pn", problems.A, residual).abs().masked_fill(chosen, -1.0)
        chosen = chosen.scatter(1, score.argmax(1, keepdim=True), True)
        places = chosen.to(torch.int8).topk(size, dim=1).indices
        residual = _least_squares(problems, places)[1]
    return chosen


RECOVERIES: dict[str, Callable[[SparseProblems, int], Tensor]] = {
    "sea": support_exploration,
    "iht": _iterative_thresholding,
    "htp": _thresholding_pursuit,
    "omp": _matching_pursuit,
}


class _Best:
    """Remembers for each problem the support of the smallest residual."""

    def __init__(self, problems: SparseProblems) -> None:
        self.support = torch.zeros_like(problems.support)
        self.error = torch.full_like(problems.y[:, 0], torch.inf)

    def see(self, x: Tensor, residual: Tensor) -> None:
        """Compares one iterate."""
        error = residual.square().sum(1)
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.support = torch.where(better.unsqueeze(1), x != 0, self.support)


def _least_squares(problems: SparseProblems, places: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the least-squares x on the columns at ``places`` [P, k], and its residual A x - y."""
    part = problems.A.gather(2, places.unsqueeze(1).expand(-1, problems.A.shape[1], -1))
    values = torch.linalg.solve(part.mT @ part, torch.einsum("pmk,pm->pk", part, problems.y))
    x = torch.zeros_like(problems.support, dtype=part.dtype).scatter(1, places, values)
    return x, torch.einsum("pmk,pk->pm", part, values) - problems.y
