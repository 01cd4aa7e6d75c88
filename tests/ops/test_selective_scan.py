"""The lean selective scan against the reference: outputs, states and gradients."""

import math

import pytest
import torch

from madzoo.errors import BackendError, ShapeError
from madzoo.ops.selective_scan import selective_scan

SHAPES = [(2, 6, 1, 1, 3), (2, 6, 63, 1, 4), (1, 5, 17, 1, 1), (3, 8, 33, 2, 16), (2, 6, 8, 3, 2)]  # B D L G N
OPTIONAL = ("D", "z", "delta_bias")


def make_inputs(shape, dtype=torch.float64):
    batch, channels, length, groups, states = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    inputs = {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length),
        "A": -0.1 - normal(channels, states).abs(),
        "B": normal(batch, groups, states, length),
        "C": normal(batch, groups, states, length),
        "D": normal(channels),
        "z": normal(batch, channels, length),
        "delta_bias": normal(channels) - 1,
    }
    return {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}


def run(inputs, backend, **options):
    y, state = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend, **options)
    loss = y.square().sum() + state.pow(3).sum()
    return [y, state, *torch.autograd.grad(loss, tuple(inputs.values()))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_lean_equals_reference(shape, reverse):
    inputs = make_inputs(shape)
    for fast, slow in zip(*(run(inputs, backend, reverse=reverse) for backend in ("torch", "reference")), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("absent", OPTIONAL)
def test_optional_inputs(absent):
    inputs = {name: x for name, x in make_inputs((2, 6, 19, 1, 3)).items() if name != absent}
    for fast, slow in zip(run(inputs, "torch"), run(inputs, "reference"), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


def test_reverse_is_the_scan_of_the_flipped_sequence():
    inputs = make_inputs((2, 6, 21, 1, 3))
    flipped = {name: x.flip(-1) if x.dim() > 2 else x for name, x in inputs.items()}
    backward = selective_scan(**inputs, delta_softplus=True, reverse=True)
    torch.testing.assert_close(backward, selective_scan(**flipped, delta_softplus=True).flip(-1))


def test_float32_is_near_float64():
    wide = make_inputs((2, 8, 197, 1, 16))
    narrow = {name: x.detach().float().requires_grad_() for name, x in wide.items()}
    for fast, exact in zip(run(narrow, "torch"), run(wide, "reference"), strict=True):
        scale = exact.abs().max()
        assert (fast.double() - exact).abs().max() <= 5e-6 * scale


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_derivatives_to_second_order(backend):
    inputs = make_inputs((1, 2, 9, 2, 1))

    def scan(*tensors):
        return selective_scan(*tensors, delta_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(scan, tuple(inputs.values()))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_function_transforms_are_served():
    inputs = {name: x.detach() for name, x in make_inputs((2, 4, 5, 1, 2)).items()}

    def total(u):
        return selective_scan(**{**inputs, "u": u}, delta_softplus=True).sum()

    u, tangent = inputs["u"], torch.ones_like(inputs["u"])
    _, along = torch.func.jvp(total, (u,), (tangent,))
    torch.testing.assert_close(along, torch.func.grad(total)(u).sum())


def test_strided_views_and_half_precision():
    inputs = make_inputs((2, 6, 16, 1, 3))
    strided = {name: x.mT.contiguous().mT if x.dim() == 3 else x for name, x in inputs.items()}
    torch.testing.assert_close(selective_scan(**strided), selective_scan(**inputs))
    half = {name: x.detach().bfloat16() for name, x in inputs.items()}
    out = selective_scan(**half, delta_softplus=True)
    assert out.dtype == torch.bfloat16
    exact = selective_scan(**{name: x.double() for name, x in half.items()}, delta_softplus=True)
    assert (out.double() - exact).abs().max() <= 0.01 * exact.abs().max()


def test_extreme_steps_stay_finite():
    inputs = {name: x.detach() for name, x in make_inputs((1, 4, 12, 1, 2), torch.float32).items()}
    for size in (1e-8, 1e3):
        step = torch.full_like(inputs["delta"], size)
        y = selective_scan(**{**inputs, "delta": step, "delta_bias": None, "A": inputs["A"] * 1e4})
        assert y.isfinite().all()


def test_backward_keeps_one_state_in_eight():
    inputs = make_inputs((1, 32, 400, 1, 16), torch.float32)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.setdefault(x.data_ptr(), x), lambda x: x):
        selective_scan(**inputs, backend="torch")
    assert sum(x.numel() for x in saved.values()) < 32 * 400 * 16  # what a materialised scan keeps several times


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"delta": torch.zeros(2, 6, 4)}, "delta"),
        ({"A": torch.zeros(5, 3)}, "A does not fit"),
        ({"B": torch.zeros(2, 4, 3, 5)}, "B does not fit"),
        ({"C": torch.zeros(2, 3)}, "C does not fit"),
        ({"D": torch.zeros(7)}, "D does not fit"),
        ({"u": torch.zeros(2, 6)}, "u must be"),
        ({"u": torch.zeros(2, 6, 0)}, "empty"),
        ({"u": torch.zeros(2, 6, 5, dtype=torch.int64)}, "floating"),
    ],
)
def test_misfits_are_named(change, word):
    inputs = {name: x.detach() for name, x in make_inputs((2, 6, 5, 1, 3)).items()}
    with pytest.raises(ShapeError, match=word):
        selective_scan(**{**inputs, **change})


def test_backends_are_checked():
    inputs = {name: x.detach() for name, x in make_inputs((1, 4, 5, 1, 2)).items()}
    with pytest.raises(BackendError, match="did you mean torch"):
        selective_scan(**inputs, backend="torh")
    complex_A = torch.complex(inputs["A"], inputs["A"])
    doubled = {name: inputs[name].repeat(1, 1, 1, 2) for name in ("B", "C")}
    with pytest.raises(BackendError, match="complex"):
        selective_scan(**{**inputs, **doubled, "A": complex_A}, backend="torch")


def test_constant_system_decays_as_it_must():
    """One channel, one state, an impulse: y_t = dt exp(A dt t)."""
    u = torch.zeros(1, 1, 6, dtype=torch.float64)
    u[..., 0] = 1
    ones = torch.ones(1, 1, 6, dtype=torch.float64)
    y = selective_scan(u, 0.5 * ones, -2 * torch.ones(1, 1, dtype=torch.float64), ones, ones, backend="reference")
    expected = [0.5 * math.exp(-t) for t in range(6)]
    torch.testing.assert_close(y[0, 0], torch.tensor(expected, dtype=torch.float64))
