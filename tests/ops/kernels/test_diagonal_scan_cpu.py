"""The compiled diagonal scan against the plain loop in float64: every instruction set, layout and direction."""

import pytest
import torch

from madzoo.errors import BackendError
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.diagonal_scan_torch import diagonal_scan_by_reference
from madzoo.ops.kernels import library

status = library.kernel_status()
pytestmark = pytest.mark.skipif(not status.available, reason=f"no compiled kernels: {status.reason}")

SIZES = [  # batch, channels, length, pairs: channels that fill no vector, chunks that are cut, blocks of every size
    (2, 5, 7, 3),
    (1, 16, 1, 1),
    (3, 33, 32, 8),
    (1, 17, 33, 15),
    (2, 40, 70, 32),
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=status.isas, autouse=True)
def isa(request):
    with library.instruction_set(request.param):
        yield request.param


def contiguous(x):
    return x.clone()


def channel_last(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def half_of_a_projection(x):
    return torch.cat([x, x], dim=1).transpose(1, 2).contiguous().transpose(1, 2)[:, : x.shape[1]]


def every_second(x):
    return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]


LAYOUTS = [contiguous, channel_last, half_of_a_projection, every_second]


def inputs(batch, channels, length, pairs):
    torch.manual_seed(batch + channels + length + pairs)
    u, D = torch.randn(batch, channels, length, dtype=torch.float64), torch.randn(channels, dtype=torch.float64)
    decay, frequency = torch.rand(2, channels, pairs, dtype=torch.float64)
    return u, torch.randn(channels, pairs, dtype=torch.complex128), torch.complex(-decay, 3 * frequency), D


def results(scan, tensors, grad, reverse):
    tensors = [x.detach().requires_grad_() for x in tensors]
    y = scan(*tensors, reverse)
    return [y.detach(), *torch.autograd.grad(y, tensors, grad)]


def compiled(u, v, log_z, D, reverse):
    return diagonal_scan(u, v, log_z, D, reverse=reverse, backend="cpu")


def assert_equal(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_loop(size, reverse, dtype):
    tensors = inputs(*size)
    grad = torch.randn_like(tensors[0])
    expected = results(diagonal_scan_by_reference, tensors, grad, reverse)
    narrow = [x.to(dtype.to_complex() if x.is_complex() else dtype) for x in tensors]
    for layout in LAYOUTS:
        found = results(compiled, [layout(narrow[0]), *narrow[1:]], layout(grad.to(dtype)), reverse)
        assert [x.dtype for x in found] == [dtype, *(x.dtype for x in narrow)]
        assert_equal(found, expected, TOLERANCE[dtype])


def test_any_strides_of_the_system_and_of_a_broadcast_gradient():
    u, v, log_z, D = inputs(2, 20, 40, 6)
    grad = u[:1, :1, :1].expand_as(u)
    given = [u, v.t().contiguous().t(), torch.stack([log_z, log_z], -1)[..., 0], torch.stack([D, D], -1)[:, 0]]
    expected = results(diagonal_scan_by_reference, (u, v, log_z, D), grad, False)
    assert_equal(results(compiled, given, grad, False), expected, 1e-12)
    conjugated = results(compiled, [u, v.conj(), log_z.conj(), D], grad, False)
    assert_equal(conjugated[:2], expected[:2], 1e-12)
    assert_equal([x.conj() for x in conjugated[2:4]], expected[2:4], 1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_lies_as_the_input(layout):
    u, *system = inputs(2, 20, 40, 3)
    u = layout(u)
    y = compiled(u, *system, False)
    assert (y.stride(1) == 1) == (u.stride(1) == 1)
    assert y.transpose(1, 2).is_contiguous() or y.is_contiguous()


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_to_scan(shape):
    u, *system = inputs(2, shape[1], 3, 3)
    u = torch.zeros(shape, dtype=u.dtype)
    found = results(compiled, [u, *system], u, False)
    assert [x.shape for x in found] == [u.shape, u.shape, *(x.shape for x in system)]
    assert not any(x.any() for x in found[2:])


def test_long_memory_keeps_its_precision():
    u, v, log_z, D = inputs(1, 16, 4000, 4)
    log_z = torch.complex(log_z.real * 1e-4, log_z.imag)
    narrow = (u.float(), v.to(torch.complex64), log_z.to(torch.complex64), D.float())
    wide = [x.to(torch.complex128 if x.is_complex() else torch.float64) for x in narrow]
    expected = diagonal_scan(*wide, backend="fft")
    torch.testing.assert_close(compiled(*wide, False), expected, rtol=1e-9, atol=1e-9)
    worst = (diagonal_scan(*narrow, backend="fft") - expected).abs().max()
    assert (compiled(*narrow, False) - expected).abs().max() < 2 * worst


def test_states_that_vanish():
    u, v, log_z, D = (x.to(torch.complex64 if x.is_complex() else torch.float32) for x in inputs(1, 16, 50, 2))
    found = results(compiled, (u, v, log_z - 1e4, D), u, False)
    torch.testing.assert_close(found[0], 2 * v.sum(1).real[:, None] * u + D[:, None] * u, rtol=1e-5, atol=1e-5)
    assert all(x.isfinite().all() for x in found)


def test_gradients_are_the_same_bits_on_any_number_of_threads():
    tensors = inputs(5, 50, 300, 4)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(compiled, tensors, tensors[0], False))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck_of_both_orders(reverse):
    tensors = [x.requires_grad_() for x in inputs(1, 3, 5, 2)]
    assert torch.autograd.gradcheck(lambda *args: compiled(*args, reverse), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: compiled(*args, reverse), tensors)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own, from torch 2.14 on
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    u, *system = inputs(2, 32, 40, 3)  # whole vectors: what lies between channels in the kept states is not written
    tensors = [x.requires_grad_() for x in (layout(u).detach(), *system)]
    torch.library.opcheck(torch.ops.madzoo.diagonal_scan, (*tensors, False, True))
    plain = [x.detach() for x in tensors]
    checkpoints, z = torch.ops.madzoo.diagonal_scan(*plain, False, True)[1:]
    u, v, _, D = plain
    torch.library.opcheck(torch.ops.madzoo.diagonal_scan_backward, (u, u, v, z, D, checkpoints, False))


def test_compilers_see_one_node():
    u, *system = inputs(2, 16, 9, 3)

    def scan(u):
        return diagonal_scan(u, *system) + diagonal_scan(u, *system, reverse=True)

    whole = torch.compile(scan, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(u), scan(u))


def test_what_it_does_not_serve_is_told():
    tensors = inputs(1, 4, 5, 2)
    with pytest.raises(BackendError, match="transforms"):
        torch.func.vmap(lambda u: compiled(u, *tensors[1:], False))(tensors[0].unsqueeze(0))
