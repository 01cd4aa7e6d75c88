"""The long convolution: fast methods against the direct sum, outputs and gradients."""

import pytest
import torch

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.long_conv import long_conv


def draw(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("method", ["fft", "toeplitz", "auto"])
@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "anticausal"])
@pytest.mark.parametrize(
    ("batch", "channels", "length", "taps"),
    [((3,), 4, 63, 63), ((2, 3), 5, 17, 4), ((), 2, 1, 1), ((1,), 3, 129, 129), ((0,), 3, 8, 8)],
)
def test_equals_direct_sum_with_gradients(method, reverse, batch, channels, length, taps):
    u = draw((*batch, channels, length), 0).requires_grad_()
    k = draw((channels, taps), 1).requires_grad_()
    probe = draw(u.shape, 2)
    expected = long_conv(u, k, reverse=reverse, method="reference")
    found = long_conv(u, k, reverse=reverse, method=method)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(
        torch.autograd.grad((found * probe).sum(), (u, k)),
        torch.autograd.grad((expected * probe).sum(), (u, k)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_reference_is_the_definition():
    u, k = draw((2, 5), 3), draw((2, 3), 4)
    for h in range(2):
        for t in range(5):
            causal = sum(k[h, s] * u[h, t - s] for s in range(3) if t - s >= 0)
            ahead = sum(k[h, s] * u[h, t + s] for s in range(3) if t + s < 5)
            assert torch.isclose(long_conv(u, k, method="reference")[h, t], causal)
            assert torch.isclose(long_conv(u, k, reverse=True, method="reference")[h, t], ahead)


@pytest.mark.parametrize("method", ["fft", "toeplitz"])
def test_causal_output_never_sees_the_future(method):
    u, k = draw((2, 3, 40), 5), draw((3, 40), 6)
    later = u.clone()
    later[..., 20:] = 1e6
    before, after = (long_conv(x, k, method=method)[..., :20] for x in (u, later))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["fft", "toeplitz"])
def test_gradcheck(method):
    u, k = draw((2, 2, 5), 7).requires_grad_(), draw((2, 4), 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: long_conv(a, b, method=method, reverse=True), (u, k))


def test_bfloat16_is_computed_in_float32():
    u, k = draw((2, 3, 33), 9, torch.bfloat16), draw((3, 33), 10, torch.bfloat16)
    found = long_conv(u, k)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, long_conv(u.float(), k.float()).bfloat16())


def test_bad_arguments():
    with pytest.raises(ShapeError, match="K <= L"):
        long_conv(draw((2, 4), 0), draw((2, 5), 0))
    with pytest.raises(ShapeError, match="K <= L"):
        long_conv(draw((3, 4), 0), draw((2, 4), 0))
    with pytest.raises(ShapeError, match="real"):
        long_conv(draw((2, 4), 0), draw((2, 4), 0).to(torch.complex128))
    with pytest.raises(BackendError, match="no method 'fast'"):
        long_conv(draw((2, 4), 0), draw((2, 4), 0), method="fast")
