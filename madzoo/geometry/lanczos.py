"""Both ends of the spectrum of a symmetric map, by Lanczos with full orthogonalisation and thick restarts.

Legend: P dimension, V orthonormal basis [k, P] (one vector a row), T = V H V^T, theta its eigenvalues (Ritz values).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from madzoo.errors import ConfigError

__all__ = ["Eigenpair", "Extremes", "extreme_eigenpairs"]

BASIS = 64  # vectors in memory before a restart
KEPT = 8  # Ritz vectors kept at each end by a restart
SIGN = 0.1  # of the value: a larger residual would leave its sign open
ROUND_OFF = 1e-13  # of the spectral norm: what is left of H v outside the basis is noise, the subspace is invariant


class Eigenpair(NamedTuple):
    """Holds value = y . H y, the unit vector y, and the residual ``|H y - value y|``.

    An eigenvalue lies within ``residual`` of ``value``.
    """

    value: float
    vector: Tensor
    residual: float


class Extremes(NamedTuple):
    """Holds the two ends, the products spent, whether the largest one reached the tolerance, and the asymmetry.

    The last is the largest difference met between ``v . H w`` and ``w . H v``, relative to the spectral norm: it is
    round-off, or the sign that the map is not the symmetric one it is taken for.
    """

    largest: Eigenpair
    smallest: Eigenpair
    products: int
    converged: bool
    asymmetry: float


def extreme_eigenpairs(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    seed: int,
    tolerance: float,
    max_products: int = 500,
    device: torch.device | str = "cpu",
) -> Extremes:
    """Finds the algebraically largest eigenvalue of a symmetric map, and what the same search says of the smallest.

    The search stops when the estimated residual of the largest pair is below ``tolerance`` times the spectral norm, and
    below a tenth of its value.
    The residuals returned are computed anew from the final vectors. The smallest pair is not waited for: in a flat
    valley it is one of many near 0, and its residual says how far it came.

    Args:
        product: v [P] -> H v [P].
        size: P.
        seed: of the Gaussian start vector, drawn on the CPU.
        tolerance: see above; the error of the value is of the order of its square.
        max_products: where the search stops without convergence.
        device: where the vectors live.

    Raises:
        ConfigError: when size or max_products is below 1.

    Cost: one product and O(64 P) per step, 64 vectors of P doubles; two more products for the residuals.

    Source: Wu and Simon 2000, thick-restart Lanczos, with the projection computed in full.
    """
    if size < 1 or max_products < 1:
        raise ConfigError("size and max_products are at least 1.", asked=(size, max_products))

    def multiply(v: Tensor) -> Tensor:
        return product(v).to(v)

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(device)
    found = _search(multiply, start, tolerance=tolerance, max_products=max_products)
    largest, smallest = (_pair(multiply, found.S[:, end] @ found.V) for end in (-1, 0))
    return Extremes(largest, smallest, found.products + 2, found.converged, found.asymmetry)


class _Found(NamedTuple):
    V: Tensor
    S: Tensor
    products: int
    converged: bool
    asymmetry: float


def _search(multiply: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float, max_products: int) -> _Found:
    limit = min(BASIS, start.numel())
    V, T = start.new_zeros(limit, start.numel()), start.new_zeros(limit, limit)
    V[0], k, products, asymmetry = start / start.norm(), 0, 0, start.new_zeros(())
    coupling = start.new_zeros(0)  # H's entries between the basis and its next vector, seen from the basis
    while True:
        rest, column = _project_out(V[: k + 1], multiply(V[k]))
        asymmetry = torch.maximum(asymmetry, (column[:k] - coupling).norm())
        T[: k + 1, k] = T[k, : k + 1] = column
        products, k = products + 1, k + 1
        theta, S = torch.linalg.eigh(T[:k, :k])
        beta, norm = rest.norm(), theta.abs().max()
        complete = k == start.numel() or bool(beta <= ROUND_OFF * norm)
        converged = complete or _is_near(beta * S[-1, -1].abs(), theta[-1].abs(), norm, tolerance)
        if converged or products >= max_products:
            return _Found(V[:k], S, products, converged, (asymmetry / norm).item() if norm else 0.0)
        coupling = beta * torch.eye(k, dtype=V.dtype, device=V.device)[-1]
        if k == limit:
            k, coupling = _restart(V, T, theta, S), beta * S[-1, _ends(k)]
        V[k] = rest / beta


def _is_near(residual: Tensor, value: Tensor, norm: Tensor, tolerance: float) -> bool:
    """Tells whether a residual is small beside the norm, and leaves the value its sign.

    The second question is for a spectrum whose large end is the negative one: beside it the first few residuals are
    small by chance, of a value near 0 that is far from the largest.
    """
    return bool(residual <= tolerance * norm) and bool(residual <= torch.maximum(SIGN * value, ROUND_OFF * norm))


def _project_out(V: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    column = V @ w
    rest = w - column @ V
    return rest - (V @ rest) @ V, column  # the second pass removes what round-off left of the first


def _ends(k: int) -> list[int]:
    return [*range(KEPT), *range(k - KEPT, k)]


def _restart(V: Tensor, T: Tensor, theta: Tensor, S: Tensor) -> int:
    """Keeps the Ritz vectors of both ends; returns how many. The next column of T couples them to the next vector."""
    keep = _ends(len(theta))
    V[: len(keep)] = S[:, keep].T @ V
    T.zero_()
    T[: len(keep), : len(keep)] = theta[keep].diag()
    return len(keep)


def _pair(multiply: Callable[[Tensor], Tensor], y: Tensor) -> Eigenpair:
    y = y / y.norm()
    image = multiply(y)
    value = y @ image
    return Eigenpair(value.item(), y, (image - value * y).norm().item())
