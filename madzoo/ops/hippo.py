"""HiPPO: state matrices that compress the past into polynomial or Fourier coefficients, and what is derived from them.

Everything is computed in float64 / complex128, once, at initialisation. N state size, R rank of the correction.
"""

import math

import torch
from torch import Tensor

from madzoo.errors import ConfigError, check_choice, nearest

__all__ = ["DIAGONAL_KINDS", "HIPPO_KINDS", "INITS", "diagonal_init", "hippo_matrix", "initial_systems", "nplr"]

HIPPO_KINDS = ("legs", "legt", "fourier")
DIAGONAL_KINDS = ("lin", "inv", "legs", "real", "inv2", "quad")

# What S4 layers start from: one kind, or several in equal parts. "fout" is another published name of "fourier".
MIXTURES = {
    "fout": ("fourier",),
    "hippo": ("legs", "fourier"),
    "diag": ("diag-inv", "diag-lin"),
    "all": ("legs", "fourier", "diag-inv", "diag-lin"),
}
INITS = (*HIPPO_KINDS, *(f"{part}-{kind}" for part in ("diag", "dplr") for kind in DIAGONAL_KINDS), *MIXTURES)


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
        "inv2": (half, -N / math.pi * (N / (n + 1) - 1)),
        "quad": (half, -((2 * n + 1) ** 2) / math.pi),
    }[kind]
    return torch.complex(real, imag), torch.ones(N // 2, dtype=torch.complex128)


def initial_systems(init: str, N: int, *, systems: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the diagonal-plus-low-rank systems that S4 layers start from, ``diag(A) - P P*``.

    Args:
        init: a HiPPO kind; ``"diag-<kind>"``, see :func:`diagonal_init`, with P = 0 (but that of LegS for LegS);
            ``"dplr-<kind>"``, the same with a P drawn at random; ``"hippo"``, ``"diag"`` or ``"all"``: the first, the
            second ... kind of a mixture for equal parts of the systems, one after the other.
        N: real dimension of a state, even.
        systems: how many systems to return, S.
        rank: of the correction, R.

    Shapes: -> A [S, N/2], B [S, N/2], P [R, S, N/2], complex128.

    Raises:
        ConfigError: on an unknown init, an odd size, a rank below that of the kind, or systems that do not part evenly.

    Source: state-spaces/s4, src/models/sequence/kernels/dplr.py, ``combination``.
    """
    check_choice("init", init, INITS)
    kinds = MIXTURES.get(init, (init,))
    if systems % len(kinds):
        asked = f"init={init!r} for {systems} systems"
        raise ConfigError("the systems do not part evenly.", asked=asked, todo=f"a multiple of {len(kinds)}")
    found = [_one_system(kind, N, copies=systems // len(kinds), rank=rank) for kind in kinds]
    A_SN, B_SN, P_RSN = (torch.cat(parts, dim=-2) for parts in zip(*found, strict=True))
    return A_SN, B_SN, P_RSN


def _one_system(kind: str, N: int, *, copies: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    part, _, diagonal = kind.rpartition("-")
    if not part:
        A, P, B, _ = nplr(kind, N, rank=rank)
    else:
        A, B = diagonal_init(diagonal, N)
        P = nplr("legs", N, rank=rank)[1] if diagonal == "legs" else torch.zeros(rank, N // 2, dtype=A.dtype)
    P_RSN = P.unsqueeze(1).repeat(1, copies, 1)
    if part == "dplr" and diagonal != "legs":
        P_RSN = torch.randn(P_RSN.shape, dtype=P_RSN.dtype)
    return A.repeat(copies, 1), B.repeat(copies, 1), P_RSN


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
