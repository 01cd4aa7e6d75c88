"""From a continuous diagonal system x' = A x + B u to the recurrence x_t = A_bar x_{t-1} + B_bar u_t.

Axes: any shapes that broadcast together; usually A, B are [D, N] and dt is [D, 1].
"""

import torch
from torch import Tensor

__all__ = ["discretize_bilinear", "discretize_euler", "discretize_zoh"]


def discretize_zoh(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretizes exactly for an input held constant over each step (zero-order hold).

    ``A_bar = exp(dt A)``, ``B_bar = (exp(dt A) - 1) / A * B``, with its limit ``dt B`` where A is 0.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input vector.
        dt: step size, in units of the continuous time.

    Shapes:
        A, B, dt broadcast together -> A_bar [broadcast of A, dt], B_bar [broadcast of all].

    Source: arXiv 2206.11893 (S4D), section 3.1.

    Example:
        >>> A_bar, B_bar = discretize_zoh(torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.5]))
        >>> [round(x.item(), 4) for x in (A_bar, B_bar)]
        [0.6065, 0.3935]
    """
    dtA = dt * A
    return torch.exp(dtA), dt * _expm1_over(dtA) * B


def discretize_bilinear(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretizes by the bilinear (Tustin) rule, which maps the stable half plane onto the unit disc.

    ``A_bar = (1 + dt A / 2) / (1 - dt A / 2)``, ``B_bar = dt B / (1 - dt A / 2)``.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input vector.
        dt: step size, in units of the continuous time.

    Shapes:
        A, B, dt broadcast together -> A_bar [broadcast of A, dt], B_bar [broadcast of all].

    Source: arXiv 2111.00396 (S4), equation 3.

    Example:
        >>> A_bar, B_bar = discretize_bilinear(torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.5]))
        >>> [round(x.item(), 4) for x in (A_bar, B_bar)]
        [0.6, 0.4]
    """
    half = dt * A / 2
    return (1 + half) / (1 - half), dt * B / (1 - half)


def discretize_euler(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Discretizes A exactly and B to first order: the rule inside every Mamba selective scan.

    ``A_bar = exp(dt A)``, ``B_bar = dt B``.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input vector.
        dt: step size, in units of the continuous time.

    Shapes:
        A, B, dt broadcast together -> A_bar [broadcast of A, dt], B_bar [broadcast of B, dt].

    Source: arXiv 2312.00752 (Mamba), section 3.6 and the published scan.

    Example:
        >>> A_bar, B_bar = discretize_euler(torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.5]))
        >>> [round(x.item(), 4) for x in (A_bar, B_bar)]
        [0.6065, 0.5]
    """
    return torch.exp(dt * A), dt * B


def _expm1_over(x: Tensor) -> Tensor:
    # The inner `where` keeps 0/0 out of the backward pass as well as the forward.
    zero = x == 0
    return torch.where(zero, 1 + x / 2, torch.expm1(torch.where(zero, 1, x)) / torch.where(zero, 1, x))
