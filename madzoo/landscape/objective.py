"""What every objective with a known valley offers: loss, derivatives, the valley's tangent space, distance to it.

Legend: theta [..., P] parameters, any leading axes (seeds, step sizes); r [..., m] residuals; J [..., m, P] their
derivative.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad, jacrev, vjp, vmap

__all__ = ["Objective"]

PROJECTION_STEPS = 60
ON_VALLEY = 1e-9  # of the residual, beside 1
SETTLED = 1e-13  # of a step, beside the point


class Objective(ABC):
    """An objective ``|r(theta)|^2 / 2`` whose minima of value 0 form a valley that is known.

    Subclasses are frozen records. Whatever takes a theta takes any leading axes, and may be used under ``vmap``.

    Attributes:
        distance_is_exact: whether :meth:`nearest` is the nearest point of the whole valley, by a closed form. Otherwise
            it is a local answer, and the distance an upper bound.
    """

    __slots__ = ()
    distance_is_exact: ClassVar[bool] = True

    @property
    @abstractmethod
    def num_params(self) -> int:
        """P."""

    @property
    @abstractmethod
    def valley_dimension(self) -> int:
        """Dimension of the valley at its generic points, P - rank J."""

    @abstractmethod
    def residual(self, theta: Tensor) -> Tensor:
        """Returns r, [..., m]."""

    @abstractmethod
    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns a point of the valley, [P]: the flattest at ``spread`` 1, sharper ones at larger spreads."""

    @abstractmethod
    def nearest(self, theta: Tensor) -> Tensor:
        """Returns the nearest valley point, [..., P]; infinite where none was found."""

    @abstractmethod
    def conserved(self, theta: Tensor) -> Tensor:
        """Returns what gradient flow keeps, [..., k]."""

    def flattest_point(self) -> Tensor:
        """Returns a valley point of least sharpness, [P]."""
        return self.valley_point(1.0)

    def loss(self, theta: Tensor) -> Tensor:
        """Returns ``|r|^2 / 2``, [...]."""
        return 0.5 * self.residual(theta).square().sum(-1)

    def pull(self, theta: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Returns r and the map ``c -> J^T c``: the gradient is ``J^T r``, that of noisy labels ``J^T (r - noise)``."""
        r, back, *_ = vjp(self.residual, theta)
        return r, lambda cotangent: back(cotangent)[0]

    def gradient(self, theta: Tensor) -> Tensor:
        """Returns ``J^T r``, [..., P]."""
        r, back = self.pull(theta)
        return back(r)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Returns J, [..., m, P]."""
        return _over_points(jacrev(self.residual), theta)

    def hessian(self, theta: Tensor) -> Tensor:
        """Returns the full Hessian, [..., P, P]: ``J^T J`` and the residuals' own curvature."""
        return _over_points(jacrev(grad(self.loss)), theta)  # in reverse twice: forward mode compiles scripts

    def sharpness(self, theta: Tensor) -> Tensor:
        """Returns the largest eigenvalue of the full Hessian, [...]."""
        return torch.linalg.eigvalsh(self.hessian(theta))[..., -1]

    def tangent(self, theta: Tensor) -> Tensor:
        """Returns an orthonormal basis of the valley's tangent space, ker J, as columns, [..., P, valley_dimension]."""
        rank = self.num_params - self.valley_dimension
        return torch.linalg.svd(self.jacobian(theta), full_matrices=True).Vh[..., rank:, :].mT

    def distance(self, theta: Tensor) -> Tensor:
        """Returns the distance to :meth:`nearest`, [...]."""
        return (self.nearest(theta) - theta).norm(dim=-1)

    def project(self, theta: Tensor) -> Tensor:
        """Finds a valley point near theta that is stationary for the distance to it, by Newton's method on both.

        Each step removes the residual (``-J^+ r``) and follows ``theta - x`` inside ker J. It converges near the
        valley, where the distance is small beside the radius of curvature.

        Shapes:
            theta [..., P] -> [..., P], infinite where the residual did not come below 1e-9.
        """
        x, rank = theta.clone(), self.num_params - self.valley_dimension
        for _ in range(PROJECTION_STEPS):
            U, S, Vh = torch.linalg.svd(self.jacobian(x), full_matrices=False)
            U, S, Vh = U[..., :rank], S[..., :rank], Vh[..., :rank, :]
            inward = (U.mT @ self.residual(x).unsqueeze(-1)).squeeze(-1) / S.clamp(min=1e-12)
            along = theta - x
            normal = (Vh @ along.unsqueeze(-1)).squeeze(-1)
            step = along - (Vh.mT @ (normal + inward).unsqueeze(-1)).squeeze(-1)
            x = torch.where(step.isfinite().all(-1, keepdim=True), x + step, x)
            x = x.clamp(-1e12, 1e12)  # a point that flies away must not stop the others
            if bool((step.norm(dim=-1) <= SETTLED * (1 + x.norm(dim=-1))).all()):
                break
        found = self.residual(x).norm(dim=-1, keepdim=True) < ON_VALLEY
        return torch.where(found, x, torch.inf)


def _over_points(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    flat = vmap(function)(theta.reshape(-1, theta.shape[-1]))
    return flat.reshape(*theta.shape[:-1], *flat.shape[1:])
