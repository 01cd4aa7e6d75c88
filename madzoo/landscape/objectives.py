"""Objectives with valleys in closed form: products of scalars and of matrices, and least squares with too few rows.

Legend: theta [..., P]; k factors; W_1 [d_1, d_0] ... W_L [d_L, d_(L-1)] layers; n rows, d columns.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.landscape.hyperbola import nearest_on_hyperbola
from madzoo.landscape.objective import Objective

__all__ = ["LeastSquares", "LinearNetwork", "ScalarProduct", "draw_least_squares", "draw_linear_network"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalarProduct(Objective):
    """``(theta_1 ... theta_k - 1)^2 / 2``, for two factors the objective ``(a b - 1)^2 / 2``.

    On the valley the sharpness is ``sum_i theta_i^-2``, least (k) where all factors have size 1. Gradient flow keeps
    ``theta_1^2 - theta_i^2``. Gradient descent multiplies ``C = a^2 - b^2`` by exactly ``1 - lr^2 (a b - 1)^2``.

    Attributes:
        factors: k, at least 2. For more than two the distance is a local one.

    Example:
        >>> f = ScalarProduct()
        >>> theta = torch.tensor([4.0, 0.25], dtype=torch.float64)
        >>> f.loss(theta).item(), round(f.sharpness(theta).item(), 4), f.conserved(theta).item()
        (0.0, 16.0625, 15.9375)
    """

    factors: int = 2

    def __post_init__(self) -> None:
        if self.factors < 2:
            raise ConfigError("a product has at least two factors.", asked=self.factors)

    @property
    def distance_is_exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the closed form serves."""
        return self.factors == 2

    @property
    def num_params(self) -> int:
        """Number of factors."""
        return self.factors

    @property
    def valley_dimension(self) -> int:
        """One less than the factors."""
        return self.factors - 1

    def residual(self, theta: Tensor) -> Tensor:
        """Returns the product less 1, [..., 1]."""
        return theta.prod(-1, keepdim=True) - 1

    def pull(self, theta: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Returns the residual and ``c -> J^T c``, without a graph for two factors."""
        if self.factors > 2:
            return Objective.pull(self, theta)
        return theta[..., :1] * theta[..., 1:] - 1, lambda cotangent: cotangent * theta.flip(-1)

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns ``(spread, 1 / spread, 1, ...)``."""
        return torch.tensor([spread, 1 / spread] + [1.0] * (self.factors - 2), dtype=torch.float64)

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns the nearest valley point: of two branches the nearer, for two factors."""
        if self.factors > 2:
            return self.project(theta)
        return torch.stack(nearest_on_hyperbola(theta[..., 0], theta[..., 1], theta.new_ones(())), dim=-1)

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns ``theta_1^2 - theta_i^2``, [..., k - 1]."""
        return theta[..., :1].square() - theta[..., 1:].square()


@dataclass(frozen=True, kw_only=True, slots=True)
class LeastSquares(Objective):
    """``|X theta - y|^2 / 2`` with fewer rows than columns: a flat valley, the same sharpness everywhere.

    Gradient flow keeps the part of theta in ker X. All valley points are equally flat; ``flattest_point`` is the one
    nearest to 0, where any method ends whose steps lie in the rows of X and that starts at 0.

    Attributes:
        X: [n, d] of rank n < d. y: [n].
    """

    X: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        n, d = self.X.shape
        if not n < d or torch.linalg.matrix_rank(self.X) < n:
            raise ConfigError("X must have full row rank and fewer rows than columns.", asked=tuple(self.X.shape))

    @property
    def num_params(self) -> int:
        """Number of columns."""
        return self.X.shape[1]

    @property
    def valley_dimension(self) -> int:
        """Columns less rows."""
        return self.X.shape[1] - self.X.shape[0]

    def residual(self, theta: Tensor) -> Tensor:
        """Returns X theta - y, [..., n]."""
        return theta @ self.X.mT - self.y

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns the shortest solution, plus ``spread - 1`` times a unit vector of ker X."""
        kernel = torch.linalg.svd(self.X, full_matrices=True).Vh[-1]
        return torch.linalg.pinv(self.X) @ self.y + (spread - 1) * kernel

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns ``theta - X^+ r``."""
        return theta - self.residual(theta) @ torch.linalg.pinv(self.X).mT

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns the coordinates of theta in ker X, [..., d - n]."""
        return theta @ torch.linalg.svd(self.X, full_matrices=True).Vh[self.X.shape[0] :].mT


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearNetwork(Objective):
    """``|W_L ... W_1 - M|^2 / 2``: a linear network on whitened inputs; with L = 2 the factorisation ``|A B - M|^2``.

    Gradient flow keeps ``W_(l+1)^T W_(l+1) - W_l W_l^T``. On the valley of L = 2 the sharpness is the sum of the two
    squared spectral norms; the least one is ``L s^(2 - 2/L)`` with s the spectral norm of M, and balanced factors have
    it.

    Attributes:
        target: M [d_L, d_0], of full rank.
        hidden: d_1 ... d_(L-1), none smaller than the rank of M.

    Source: conserved quantities, arXiv 1802.06509, theorem 1; flattest minima, arXiv 2002.04710, theorem 1.
    """

    distance_is_exact: ClassVar[bool] = False
    target: Tensor
    hidden: tuple[int, ...]

    def __post_init__(self) -> None:
        smallest = min(self.target.shape)
        if torch.linalg.matrix_rank(self.target) < smallest:
            raise ConfigError("the target must have full rank.", asked=tuple(self.target.shape))
        if not self.hidden or min(self.hidden) < smallest:
            raise ConfigError("a hidden layer is narrower than the target's rank.", asked=self.hidden, looked=smallest)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of W_1 ... W_L."""
        widths = [self.target.shape[1], *self.hidden, self.target.shape[0]]
        return list(zip(widths[1:], widths[:-1], strict=True))

    @property
    def num_params(self) -> int:
        """Entries of all layers."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def valley_dimension(self) -> int:
        """P - d_0 d_L."""
        return self.num_params - self.target.numel()

    def layers(self, theta: Tensor) -> list[Tensor]:
        """Cuts theta into W_1 ... W_L, each [..., d_l, d_(l-1)]."""
        pieces = theta.split([rows * columns for rows, columns in self.shapes], dim=-1)
        return [piece.unflatten(-1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def residual(self, theta: Tensor) -> Tensor:
        """Returns the entries of ``W_L ... W_1 - M``, [..., d_L d_0]."""
        first, *others = self.layers(theta)
        product = first
        for layer in others:
            product = layer @ product
        return (product - self.target).flatten(-2)

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns balanced factors, the first times ``spread``, the last divided by it."""
        U, S, Vh = torch.linalg.svd(self.target, full_matrices=False)
        layers = []
        for rows, columns in self.shapes:
            layer = self.target.new_zeros(rows, columns)
            layer[range(len(S)), range(len(S))] = S ** (1 / len(self.shapes))
            layers.append(layer)
        layers[0] = spread * layers[0][:, : len(S)] @ Vh
        layers[-1] = U @ layers[-1][: len(S)] / spread
        return torch.cat([layer.flatten() for layer in layers])

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns a valley point at a locally least distance."""
        return self.project(theta)

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns the upper triangles of ``W_(l+1)^T W_(l+1) - W_l W_l^T``, [..., k]."""
        layers, parts = self.layers(theta), []
        for lower, upper in itertools.pairwise(layers):
            balance = upper.mT @ upper - lower @ lower.mT
            rows, columns = torch.triu_indices(*balance.shape[-2:])
            parts.append(balance[..., rows, columns])
        return torch.cat(parts, dim=-1)


def draw_least_squares(rows: int, columns: int, *, seed: int) -> LeastSquares:
    """Draws X and y with Gaussian entries, X scaled to a spectral norm of 1."""
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    y = torch.randn(rows, generator=draw, dtype=torch.float64)
    return LeastSquares(X=X / torch.linalg.matrix_norm(X, 2), y=y)


def draw_linear_network(widths: Sequence[int], *, seed: int) -> LinearNetwork:
    """Draws a target with singular values from 1 down to 1/2, for layers of the widths d_0 ... d_L."""
    draw = torch.Generator().manual_seed(seed)
    M = torch.randn(widths[-1], widths[0], generator=draw, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    target = (U * torch.linspace(1, 0.5, len(S), dtype=torch.float64)) @ Vh
    return LinearNetwork(target=target, hidden=tuple(widths[1:-1]))
