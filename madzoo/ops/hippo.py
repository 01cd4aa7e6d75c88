"""HiPPO: state matrices that compress the past into polynomial or Fourier coefficients, and what is derived from them.

Everything is computed in float64 / complex128, once, at initialisation. N state size, R rank of the correction.
"""

import math

import torch
from torch import Tensor

from madzoo.errors import ConfigError, nearest

__all__ = ["DIAGONAL_KINDS", "HIPPO_KINDS", "diagonal_init", "hippo_matrix", "nplr"]

HIPPO_KINDS = ("legs", "legt", "fourier")
DIAGONAL_KINDS = ("lin", "inv", "legs", "real")


def hippo_matrix(kind: str, N: int) -> tuple[Tensor, Tensor]:
    """Returns the system x' = A x + B u whose state holds the coefficients of the past input in a basis.

    Args:
        kind: ``"legs"`` (scaled Legendre: all history), ``"legt"`` (translated Legendre: a sliding window) or
            ``"fourier"`` (truncated Fourier basis on a sliding window).
        N: number of coefficients; even for ``"fourier"``.

    Shapes: -> A [N, N], B [N], float64.

    Raises:
        ConfigError: on an unknown kind, or a size that the kind does not have.

    Source: arXiv 2008.07669 (HiPPO), theorem 2 and appendix D; arXiv 2206.12037, definitions 2 and 4.

    Example:
        >>> hippo_matrix("legs", 2)[0]
        tensor([[-1.0000,  0.0000],
                [-1.7321, -2.0000]], dtype=torch.float64)
    """
    _check(kind, HIPPO_KINDS, N, even=kind == "fourier")
    n = torch.arange(N, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    if kind == "legs":
        A = -torch.tril(root[:, None] * root, diagonal=-1) - torch.diag(n + 1)
        return A + 0.0, root
    if kind == "legt":
        sign = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0)
        return -0.5 * root[:, None] * sign * root, 0.5 * root
    B = _fourier_readout(N)
    return _fourier_rotation(N) - B[:, None] * B, B


def nplr(
    kind: str, N: int, *, rank: int | None = None, clip: float | None = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Diagonalises a HiPPO matrix as normal plus low rank, ``A = 2 Re(V diag(w) V*) - P_real^T P_real``.

    Eigenvalues come in conjugate pairs; the one with the negative imaginary part is kept, in ascending order.

    Args:
        kind: see :func:`hippo_matrix`.
        N: size, even.
        rank: of the correction; the kind's own (legt 2, others 1) or more, padded by zeros.
        clip: bound on the imaginary part of B, which steadies training; None leaves B as it is.

    Shapes: -> w [N/2], P [R, N/2] and B [N/2] in the eigenbasis, V [N, N/2]; complex128.

    Raises:
        ConfigError: on an unknown kind, an odd size, or a rank below the kind's own.

    Source: arXiv 2111.00396 (S4), theorem 1 and appendix C.1.
    """
    _check(kind, HIPPO_KINDS, N, even=True)
    A, B = hippo_matrix(kind, N)
    P = _pad_rank(_correction(kind, N), kind, rank)
    normal = A + P.T @ P
    decay, rotation = normal.diagonal().mean(), (normal - normal.T) / 2
    frequency, V = torch.linalg.eigh(-1j * rotation)
    w, V = torch.complex(decay.expand(N // 2), frequency[: N // 2]), V[:, : N // 2].clone()
    if kind == "fourier":
        # The pair of frequency zero: any basis of the plane solves it, this one is its own mirror image.
        V[:, -1] = 0
        V[:2, -1] = torch.tensor([1, 1j], dtype=V.dtype) * 0.5**0.5
    adjoint = V.conj().T
    B = adjoint @ B.to(V.dtype)
    B = B if clip is None else torch.complex(B.real, B.imag.clamp(-clip, clip))
    return w, P.to(V.dtype) @ adjoint.T, B, V


def diagonal_init(kind: str, N: int) -> tuple[Tensor, Tensor]:
    """Returns the diagonal system that S4D starts from; imaginary parts are at most 0.

    Args:
        kind: ``"lin"`` (A = -1/2 - i pi n), ``"inv"`` (imaginary part -N/pi (N/(2n+1) - 1)), ``"legs"`` (the normal
            part of HiPPO-LegS) or ``"real"`` (A = -(n+1)).
        N: real dimension of a state, even; N / 2 conjugate pairs are returned.

    Shapes: -> A [N/2], B [N/2], complex128.

    Raises:
        ConfigError: on an unknown kind or an odd size.

    Source: arXiv 2206.11893 (S4D), section 4.

    Example:
        >>> diagonal_init("lin", 4)[0]
        tensor([-0.5000-0.0000j, -0.5000-3.1416j], dtype=torch.complex128)
    """
    _check(kind, DIAGONAL_KINDS, N, even=True)
    if kind == "legs":
        w, _, B, _ = nplr("legs", N)
        return w, B
    n = torch.arange(N // 2, dtype=torch.float64)
    half = torch.full_like(n, -0.5)
    real, imag = {
        "lin": (half, -math.pi * n),
        "inv": (half, -N / math.pi * (N / (2 * n + 1) - 1)),
        "real": (-(n + 1), -0.0 * n),
    }[kind]
    return torch.complex(real, imag), torch.ones(N // 2, dtype=torch.complex128)


def _check(kind: str, kinds: tuple[str, ...], N: int, *, even: bool) -> None:
    if kind not in kinds:
        raise ConfigError(
            f"no initialisation is named {kind!r}.", asked=kind, looked=", ".join(kinds), todo=nearest(kind, kinds)
        )
    if N < 1 or (even and N % 2):
        raise ConfigError(f"{kind} needs {'an even' if even else 'a positive'} size.", asked=f"N={N}")


def _fourier_readout(N: int) -> Tensor:
    B = torch.zeros(N, dtype=torch.float64)
    B[0::2] = 2**0.5
    B[0] = 1
    return B


def _fourier_rotation(N: int) -> Tensor:
    between = torch.zeros(N - 1, dtype=torch.float64)
    between[0::2] = math.pi * torch.arange(N // 2, dtype=torch.float64)
    return torch.diag(between, -1) - torch.diag(between, 1)


def _correction(kind: str, N: int) -> Tensor:
    n = torch.arange(N, dtype=torch.float64)
    if kind == "legs":
        return torch.sqrt(n + 0.5)[None]
    if kind == "legt":
        root = torch.sqrt(n + 0.5)
        return torch.stack([root * (n % 2 == 1), root * (n % 2 == 0)])
    return _fourier_readout(N)[None]


def _pad_rank(P: Tensor, kind: str, rank: int | None) -> Tensor:
    missing = 0 if rank is None else rank - len(P)
    if missing < 0:
        raise ConfigError(f"the correction of {kind} has rank {len(P)}.", asked=f"rank={rank}", todo=f"rank={len(P)}")
    return torch.cat([P, P.new_zeros(missing, P.shape[1])])
