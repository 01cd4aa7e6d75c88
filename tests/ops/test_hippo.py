"""HiPPO matrices and S4D initialisations against published values and their own theory."""

import pytest
import torch
from parity import LIMITS, load_case, relative_error

from madzoo.errors import ConfigError
from madzoo.ops.hippo import DIAGONAL_KINDS, HIPPO_KINDS, INITS, diagonal_init, hippo_matrix, initial_systems, nplr

CASE, REFERENCE = load_case("hippo_inits")
SIZES = (4, 8, 64)


def limit(reference):
    return LIMITS[torch.float32] if reference.dtype.name in ("float32", "complex64") else LIMITS[torch.float64]


@pytest.mark.parametrize("N", SIZES)
@pytest.mark.parametrize("kind", HIPPO_KINDS)
def test_matrices_are_the_published_ones(kind, N):
    A, B = hippo_matrix(kind, N)
    ours = {f"{kind}.N{N}.A": A, f"{kind}.N{N}.B": B[:, None]}
    known = [name for name in ours if name in REFERENCE]
    assert known
    for name in known:
        assert relative_error(ours[name], REFERENCE[name]) < limit(REFERENCE[name])


@pytest.mark.parametrize("N", SIZES)
def test_eigenbasis_is_the_published_one_up_to_phase(N):
    w, P, B, _ = nplr("legs", N)
    for name, ours in {"w": w, "absP": P.abs(), "absB": B.abs()}.items():
        assert relative_error(ours, REFERENCE[f"nplr.legs.N{N}.{name}"]) < LIMITS[torch.float64]


@pytest.mark.parametrize("N", SIZES)
@pytest.mark.parametrize("kind", ["lin", "inv", "legs", "real"])
def test_diagonal_inits_are_the_published_ones(kind, N):
    A, B = diagonal_init(kind, N)
    assert relative_error(A[None], REFERENCE[f"diag.{kind}.N{N}.A"]) < limit(REFERENCE[f"diag.{kind}.N{N}.A"])
    # The phase of an eigenvector is arbitrary, so for legs only the size of B is determined.
    reference = abs(REFERENCE[f"diag.{kind}.N{N}.B"]) + 0j
    assert relative_error(B.abs()[None] + 0j, reference) < LIMITS[torch.float32]


@pytest.mark.parametrize("N", [2, 6, 64])
@pytest.mark.parametrize("kind", HIPPO_KINDS)
def test_normal_plus_low_rank_restores_the_matrix(kind, N):
    A, B = hippo_matrix(kind, N)
    w, P, B_eigen, V = nplr(kind, N, clip=None)
    normal = 2 * (V * w @ V.conj().T).real
    correction = 2 * (V @ P.T).real
    torch.testing.assert_close(normal - correction @ correction.T, A, rtol=0, atol=1e-11 * N)
    torch.testing.assert_close(2 * (V @ B_eigen).real, B, rtol=0, atol=1e-12 * N)
    assert (w.imag <= 0).all()


def test_rank_is_padded_but_never_cut():
    assert nplr("legs", 8, rank=3)[1].shape == (3, 4)
    assert nplr("legt", 8)[1].shape == (2, 4)
    with pytest.raises(ConfigError, match="rank 2"):
        nplr("legt", 8, rank=1)


def test_clipping_bounds_the_imaginary_part():
    assert nplr("legs", 64, clip=0.5)[2].imag.abs().max() <= 0.5


@pytest.mark.parametrize("make", [hippo_matrix, nplr, diagonal_init])
def test_unknown_kinds_are_told(make):
    with pytest.raises(ConfigError, match=r"legz[\s\S]*did you mean [^?]*legs"):
        make("legz", 4)


def test_sizes_that_do_not_exist_are_told():
    wrong = [(nplr, "legs", 5), (diagonal_init, "lin", 3), (hippo_matrix, "fourier", 7), (hippo_matrix, "legs", 0)]
    for make, kind, N in wrong:
        with pytest.raises(ConfigError, match="size"):
            make(kind, N)


@pytest.mark.parametrize("kind", DIAGONAL_KINDS)
def test_diagonal_inits_are_stable(kind):
    A, B = diagonal_init(kind, 8)
    assert A.shape == B.shape == (4,)
    assert (A.real < 0).all() and (A.imag <= 0).all()


def test_comparisons_of_s4d_are_their_formulas():
    n, N = torch.arange(4, dtype=torch.float64), 8
    torch.testing.assert_close(diagonal_init("inv2", N)[0].imag, -N / torch.pi * (N / (n + 1) - 1))
    torch.testing.assert_close(diagonal_init("quad", N)[0].imag, -((1 + 2 * n) ** 2) / torch.pi)


def test_mixtures_part_the_systems():
    A, B, P = initial_systems("hippo", 8, systems=6, rank=2)
    for half, kind in ((slice(0, 3), "legs"), (slice(3, 6), "fourier")):
        w, P_kind, B_kind, _ = nplr(kind, 8, rank=2)
        assert torch.equal(A[half], w.expand(3, -1)) and torch.equal(B[half], B_kind.expand(3, -1))
        assert torch.equal(P[:, half], P_kind.unsqueeze(1).expand(-1, 3, -1))
    assert torch.equal(
        initial_systems("fout", 8, systems=1, rank=1)[0], initial_systems("fourier", 8, systems=1, rank=1)[0]
    )


@pytest.mark.parametrize("init", [init for init in INITS if init != "legt"])
def test_every_init_makes_systems(init):
    A, B, P = initial_systems(init, 8, systems=4, rank=1)
    assert A.shape == B.shape == (4, 4) and P.shape == (1, 4, 4)
    assert P.any() == (not init.startswith("diag") or init == "diag-legs")


def test_systems_that_do_not_part_are_refused():
    for wrong in ({"init": "all", "systems": 6}, {"init": "legt", "systems": 1}, {"init": "lags", "systems": 1}):
        with pytest.raises(ConfigError):
            initial_systems(wrong["init"], 8, systems=wrong["systems"], rank=1)
