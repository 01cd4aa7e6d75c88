"""The Triton kernels against the float64 reference: on the GPU where there is one, else in Triton's interpreter."""

import os
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    pytest.skip("triton is not installed: its kernels are not tested here", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and tuple(map(int, version("triton").split(".")[:2])) < (3, 7):
    pytest.skip("no GPU, and the interpreter of triton before 3.7 fails with numpy 2.4", allow_module_level=True)
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: above the next imports

from madzoo.ops.kernels import selective_scan_triton  # noqa: E402
from madzoo.ops.kernels.selective_scan_triton import triton_selective_scan, why_not_triton  # noqa: E402
from madzoo.ops.selective_scan import selective_scan  # noqa: E402

if DEVICE == "cpu" and not selective_scan_triton._interpreted():
    pytest.skip("no GPU, and the kernels were defined without TRITON_INTERPRET=1", allow_module_level=True)

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
# B D L G N, and what it is there for
SHAPES = {
    "one position": (2, 6, 1, 1, 3),
    "one state": (1, 5, 10, 1, 1),
    "groups and a last chunk that is not full": (2, 6, 9, 3, 4),
    "channels that do not fill a block": (1, 19, 9, 1, 16),
    "many states": (1, 3, 5, 1, 64),
    "more than 128 states": (1, 2, 5, 1, 130),
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def make_inputs(shape, dtype=torch.float64, channel_last=True):
    batch, channels, length, groups, states = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def walked(*size):
        x = normal(*size[:-2], size[-1], size[-2]).transpose(-1, -2) if channel_last else normal(*size)
        return x.to(dtype)

    wide = torch.promote_types(dtype, torch.float32)  # weights stay in float32 beside half-precision activations
    inputs = {
        "u": walked(batch, channels, length),
        "delta": walked(batch, channels, length),
        "A": (-0.1 - normal(channels, states).abs()).to(wide),
        "B": walked(batch, groups, states, length),
        "C": walked(batch, groups, states, length),
        "D": normal(channels).to(wide),
        "z": walked(batch, channels, length),
        "delta_bias": (normal(channels) - 1).to(wide),
    }
    return {name: x.to(DEVICE).requires_grad_() for name, x in inputs.items()}


def by_triton(inputs, softplus=True, reverse=False):
    return triton_selective_scan(*(inputs.get(name) for name in NAMES), softplus, reverse)


def by_reference(inputs, softplus=True, reverse=False):
    options = {"delta_softplus": softplus, "return_last_state": True, "reverse": reverse, "backend": "reference"}
    return selective_scan(**inputs, **options)


def with_gradients(scan, inputs, **options):
    y, state = scan(inputs, **options)
    loss = y.double().square().sum() + state.double().pow(3).sum()
    return [y, state, *torch.autograd.grad(loss, tuple(inputs.values()))]


def check(inputs, **options):
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    found, expected = with_gradients(by_triton, inputs, **options), with_gradients(by_reference, exact, **options)
    for name, fast, slow in zip(["y", "state", *inputs], found, expected, strict=True):
        scale = slow.abs().max().clamp(min=1e-3)
        error = ((fast.double() - slow).abs().max() / scale).item()
        assert fast.shape == slow.shape
        assert error <= TOLERANCE[inputs["u"].dtype], f"{name}: {error:.1e}"
    assert found[0].dtype == inputs["u"].dtype
    assert [x.dtype for x in found[2:]] == [x.dtype for x in inputs.values()]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_outputs_and_gradients_equal_the_reference(shape, dtype):
    check(make_inputs(shape, dtype), reverse=shape[2] == 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    check(make_inputs((2, 4, 9, 1, 2), dtype))


@pytest.mark.parametrize("absent", ["D", "z", "delta_bias", "all"])
def test_optional_inputs(absent):
    gone = ("D", "z", "delta_bias") if absent == "all" else (absent,)
    inputs = {name: x for name, x in make_inputs((1, 4, 6, 1, 2)).items() if name not in gone}
    check(inputs, softplus=absent != "all")


def test_every_layout_is_read_as_it_lies():
    shape = (2, 4, 9, 1, 2)
    check(make_inputs(shape, channel_last=False))
    inputs = make_inputs(shape)
    both = torch.cat([inputs["u"], inputs["z"]], dim=1).detach().requires_grad_()  # as a layer cuts its projection
    u, z = both.chunk(2, dim=1)
    cut = {**inputs, "u": u, "z": z, "B": inputs["B"].squeeze(1), "C": inputs["C"][:, :1].expand(2, 2, 2, 9)}
    for fast, slow in zip(by_triton(cut), by_reference(inputs), strict=True):
        torch.testing.assert_close(fast, slow)


def test_extreme_steps_stay_finite():
    inputs = make_inputs((1, 4, 9, 1, 2), torch.float32)
    del inputs["delta_bias"]
    for size in (1e-8, 1e3):
        inputs["delta"] = torch.full_like(inputs["delta"], size).requires_grad_()
        inputs["A"] = (inputs["A"].detach() * 1e4).requires_grad_()
        assert all(x.isfinite().all() for x in with_gradients(by_triton, inputs, softplus=False))


def test_softplus_is_accurate_where_it_is_tiny():
    inputs = {name: x.detach() for name, x in make_inputs((1, 1, 1, 1, 1), torch.float32).items() if name in NAMES[:5]}
    for raw in (-80.0, -17.0, -3.0, 0.0, 19.0, 30.0):
        inputs["delta"] = torch.full_like(inputs["delta"], raw)
        exact = by_reference({name: x.double() for name, x in inputs.items()})[1]
        torch.testing.assert_close(by_triton(inputs)[1].double(), exact, rtol=1e-6, atol=0)


def test_a_second_derivative_goes_through_the_reference():
    inputs = make_inputs((1, 2, 3, 1, 2))

    def second(scan):
        y, state = scan(inputs)
        (grad,) = torch.autograd.grad(y.square().sum() + state.sum(), inputs["delta"], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), tuple(inputs.values()))

    for fast, slow in zip(second(by_triton), second(by_reference), strict=True):
        torch.testing.assert_close(fast, slow)


def test_only_what_a_backward_pass_needs_is_kept():
    inputs = make_inputs((1, 4, 16, 1, 2), torch.float32)
    op = torch.ops.madzoo.selective_scan_triton
    tensors = tuple(inputs.values())
    with torch.no_grad():
        assert op(*tensors, True, False, False)[2].numel() == 0
        assert op(*tensors, True, False, True)[2].shape == (1, 2, 4, 2)


def test_the_operator_keeps_the_rules_of_torch_library():
    inputs = tuple(make_inputs((1, 2, 3, 1, 2)).values())
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.madzoo.selective_scan_triton.default, (*inputs, True, True, True), test_utils=tests)


def test_a_tracing_compiler_sees_one_operator():
    inputs = make_inputs((1, 2, 3, 1, 2))

    def scan(*tensors):
        assert why_not_triton(*(tensors[i] for i in (0, 2, 3, 4))) is None
        return triton_selective_scan(*tensors, True, True)[0].square().sum()

    found, expected = torch.compile(scan, fullgraph=True, backend="aot_eager")(*inputs.values()), scan(*inputs.values())
    grads = (torch.autograd.grad(x, tuple(inputs.values())) for x in (found, expected))
    torch.testing.assert_close(found, expected)
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow)


def test_what_is_not_served_is_named():
    u, A, B = torch.zeros(1, 2, 3), torch.zeros(2, 4), torch.zeros(1, 4, 3)
    assert why_not_triton(u, A.to(torch.complex64), B, B) == "complex A"
    assert why_not_triton(u, A, A, B) == "constant B or C"
    assert "257" in (why_not_triton(u, torch.zeros(2, 257), B, B) or "")
    assert why_not_triton(u.to(DEVICE), A, B, B) is None
