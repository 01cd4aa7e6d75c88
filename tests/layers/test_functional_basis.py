"""The functional basis decoder: NumPy's polynomials and plain waves, one function at every sampling rate."""

import numpy as np
import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.layers.functional_basis import BASES, FunctionalBasisDecoder, fourier_basis, legendre_basis


def in_numpy(basis, share, count):
    if basis == "legendre":
        return np.polynomial.legendre.legvander(2 * share - 1, count - 1)
    columns = [np.ones_like(share)]
    for wave in range(1, count):
        columns += [np.sin(2 * np.pi * wave * share), np.cos(2 * np.pi * wave * share)]
    return np.stack(columns[:count], axis=1)


def build(basis="legendre", **changes):
    torch.manual_seed(0)
    sizes = {"span": 24, "num_functions": 9, "num_quantiles": 3, "basis": basis} | changes
    return FunctionalBasisDecoder(6, **sizes).double()


def states(*shape):
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 64])
def test_is_the_basis_in_numpy(basis, count):
    share = np.linspace(0, 1, 37)
    found = BASES[basis](torch.from_numpy(share), count).numpy()
    np.testing.assert_allclose(found, in_numpy(basis, share, count), rtol=0, atol=1e-12)
    assert found.shape == (37, count) and np.abs(found).max() <= 1 + 1e-12


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("steps", "scale"), [(24, 1.0), (7, 24 / 7), (1, 24.0), (96, 0.25), (10, 0.3)])
def test_is_the_sum_of_functions_in_numpy(basis, steps, scale):
    decoder, x = build(basis), states(2, 5)
    coefficients = decoder.projection(x).detach().numpy().reshape(2, 5, 3, 9)
    functions = in_numpy(basis, np.arange(1, steps + 1) * scale / 24, 9)
    expected = np.sort(np.einsum("bnqk,hk->bnhq", coefficients, functions), axis=-1)
    np.testing.assert_allclose(decoder(x, steps=steps, scale=scale).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_a_function_has_no_sampling_rate(basis):
    decoder, x = build(basis), states(4)
    fine = decoder(x, steps=96, scale=0.25)
    for every in (2, 4, 12, 96):
        coarse = decoder(x, steps=96 // every, scale=0.25 * every)
        torch.testing.assert_close(coarse, fine[:, every - 1 :: every], rtol=0, atol=1e-12)


def test_the_span_belongs_to_the_function():
    x = states(4)
    wide, narrow = build(span=48), build()
    torch.testing.assert_close(wide(x, steps=24, scale=2.0), narrow(x, steps=24, scale=1.0))
    assert not torch.allclose(wide(x, steps=24, scale=1.0), narrow(x, steps=24, scale=1.0))


def test_quantiles_do_not_cross_and_gradients_reach_the_projection():
    decoder, x = build(), states(4)
    y = decoder(x, steps=24, scale=1.0)
    assert y.diff(dim=-1).ge(0).all() and y.diff(dim=-1).gt(0).any()
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().gt(0).all() for p in decoder.parameters())


def test_autocast_does_not_reach_the_sum():
    decoder, x = build().float(), states(4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = decoder(x, steps=24, scale=1.0)
        coefficients = decoder.projection(x).float().unflatten(-1, (3, 9))
    expected = (coefficients @ decoder.sample(24, scale=1.0, device=x.device).float().mT).mT.sort(-1).values
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("steps", "scale"), [(25, 1.0), (24, 1.001), (0, 1.0), (3, -1.0), (1, float("nan"))])
def test_refuses_what_lies_outside_the_span(steps, scale):
    with pytest.raises(ConfigError, match="span"):
        build()(states(2), steps=steps, scale=scale)


def test_refuses_an_unknown_basis():
    with pytest.raises(ConfigError, match="legendre"):
        build("legendr")


def test_the_smallest_bases():
    share = torch.tensor([0.0, 1.0])
    assert legendre_basis(share, 1).tolist() == fourier_basis(share, 1).tolist() == [[1.0], [1.0]]
