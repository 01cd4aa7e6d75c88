"""The compiled short convolution against PyTorch's operators: every instruction set, layout and direction."""

import pytest
import torch

from madzoo.errors import BackendError
from madzoo.ops import causal_conv1d
from madzoo.ops.causal_conv1d_torch import causal_conv1d_by_torch
from madzoo.ops.kernels import library
from madzoo.ops.kernels.conv1d_cpu import MOST_TAPS

status = library.kernel_status()
pytestmark = pytest.mark.skipif(not status.available, reason=f"no compiled kernels: {status.reason}")

SIZES = [  # batch, channels, length, taps
    (2, 5, 7, 4),
    (1, 16, 1, 4),
    (3, 1, 33, 3),
    (2, 35, 64, 4),
    (1, 33, 65, 3),
    (2, 48, 130, 1),
    (1, 17, 81, 2),
    (1, 40, 70, MOST_TAPS),
    (1, 3, 9, MOST_TAPS),
]
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}


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
    wide = x.new_full((*x.shape, 2), float("nan"))
    wide[..., 0] = x
    return wide[..., 0]


LAYOUTS = [contiguous, channel_last, half_of_a_projection, every_second]


def inputs(batch, channels, length, taps):
    torch.manual_seed(batch + channels + length + taps)
    shapes = ((batch, channels, length), (channels, taps), (channels,), (batch, channels, length))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def results(convolve, x, weight, bias, grad, silu, reverse):
    """Returns the output and the gradients."""
    tensors = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    y = convolve(*tensors, silu, reverse)
    return [y.detach(), *torch.autograd.grad(y, tensors, grad)]


def compiled(x, weight, bias, silu, reverse):
    return causal_conv1d(x, weight, bias, activation="silu" if silu else None, reverse=reverse, backend="cpu")


def assert_equal(found, expected, dtype):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        scale = theirs.abs().max().clamp(min=1)
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_torch(size, reverse, dtype):
    x, weight, bias, grad = inputs(*size)
    for layout in LAYOUTS:
        for silu in (False, True):
            expected = results(causal_conv1d_by_torch, x, weight, bias, grad, silu, reverse)
            given = [layout(x).to(dtype), weight.to(dtype), bias.to(dtype), layout(grad).to(dtype)]
            assert_equal(results(compiled, *given, silu, reverse), expected, dtype)


def test_any_strides_of_the_taps_and_of_a_broadcast_gradient():
    x, weight, bias, grad = inputs(2, 20, 40, 4)
    grad = grad[:1, :1, :1].expand_as(grad)
    wide = torch.stack([weight.t().flip(0), weight.t()])[1].t()  # stride (1, D)
    spaced = torch.stack([bias, bias], dim=1)[:, 0]
    found = results(compiled, x, wide, spaced, grad, True, False)
    assert_equal(found, results(causal_conv1d_by_torch, x, weight, bias, grad, True, False), torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_lies_as_the_input(layout):
    x, weight, bias, _ = inputs(2, 20, 40, 4)
    x = layout(x)
    y = compiled(x, weight, bias, True, False)
    assert (y.stride(1) == 1) == (x.stride(1) == 1)
    assert y.transpose(1, 2).is_contiguous() or y.is_contiguous()


def test_without_a_bias():
    x, weight, _, _ = inputs(2, 20, 40, 4)
    tensors = [x.requires_grad_(), weight.requires_grad_()]
    ours = causal_conv1d(*tensors, activation="silu", backend="cpu")
    theirs = causal_conv1d_by_torch(*tensors, None, True, False)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    for a, b in zip(torch.autograd.grad(ours.sum(), tensors), torch.autograd.grad(theirs.sum(), tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_to_convolve(shape):
    x, weight, bias = torch.zeros(shape), torch.ones(shape[1], 4), torch.ones(shape[1])
    found = results(compiled, x, weight, bias, x, True, False)
    assert [list(tensor.shape) for tensor in found] == [[*shape], [*shape], [shape[1], 4], [shape[1]]]
    assert not found[2].any()
    assert not found[3].any()


def test_extreme_inputs_stay_finite():
    x = torch.tensor([[[-1e8, -200.0, -88.0, 0.0, 88.0, 200.0, 1e8]]])
    y, grad_x, *_ = results(compiled, x, torch.ones(1, 1), torch.zeros(1), torch.ones_like(x), True, False)
    torch.testing.assert_close(y, torch.nn.functional.silu(x), rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(grad_x, torch.tensor([[[0.0, 0, 0, 0.5, 1, 1, 1]]]), rtol=1e-6, atol=1e-30)


def test_gradients_are_the_same_bits_on_any_number_of_threads():
    x, weight, bias, grad = inputs(3, 130, 700, 4)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(compiled, x, weight, bias, grad, True, False))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck_of_both_orders(reverse):
    tensors = [tensor.requires_grad_() for tensor in inputs(1, 3, 5, 3)[:3]]
    assert torch.autograd.gradcheck(lambda *args: compiled(*args, True, reverse), tensors)
    assert torch.autograd.gradgradcheck(lambda *args: compiled(*args, True, reverse), tensors)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own, from torch 2.14 on
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, weight, bias, grad = inputs(2, 20, 9, 4)
    tensors = [layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    torch.library.opcheck(torch.ops.madzoo.causal_conv1d, (*tensors, True, False))
    plain = [tensor.detach() for tensor in (grad, *tensors)]
    torch.library.opcheck(torch.ops.madzoo.causal_conv1d_backward, (*plain, True, False))


def test_what_it_does_not_serve_is_told_and_served_by_torch():
    x, weight, bias, _ = inputs(1, 4, 30, MOST_TAPS + 1)
    cases = [
        (x, weight, bias),
        (x.bfloat16(), weight[:, :4].bfloat16(), bias.bfloat16()),
        (x, weight[:, :4].float(), None),
    ]
    for case in cases[:2]:
        torch.testing.assert_close(causal_conv1d(*case), causal_conv1d_by_torch(*case, False, False))
    for case in cases:
        with pytest.raises(BackendError, match="does not serve"):
            causal_conv1d(*case, backend="cpu")
    with pytest.raises(BackendError, match="unknown backend"):
        causal_conv1d(*cases[1], backend="cuda")


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_function_transforms_go_by_torch():
    x, weight, bias, _ = inputs(3, 4, 6, 4)
    apart = torch.func.vmap(lambda one: causal_conv1d(one.unsqueeze(0), weight, bias, activation="silu")[0])(x)
    torch.testing.assert_close(apart, causal_conv1d(x, weight, bias, activation="silu", backend="cpu"))
    tangent = torch.func.jvp(lambda one: causal_conv1d(one, weight, bias), (x,), (x,))[1]
    torch.testing.assert_close(tangent, causal_conv1d(x, weight))
