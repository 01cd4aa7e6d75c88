"""The trapezoidal scan: chunks against the reference, both against ssd and an ordinary integral, steps on prefixes."""

import pytest
import torch

from madzoo.errors import BackendError, ConfigError, ShapeError
from madzoo.ops.ssd import ssd
from madzoo.ops.trapezoidal_ssd import TrapezoidalState, trapezoidal_ssd, trapezoidal_ssd_step

# B L H P N
SHAPES = [(2, 1, 4, 3, 5), (1, 33, 2, 8, 4), (2, 63, 3, 1, 1), (1, 197, 2, 4, 6)]
NAMES = ("x", "dt", "A", "mix", "B", "C")


def make_inputs(shape, dtype=torch.float64):
    batch, length, heads, width, states = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    inputs = {
        "x": normal(batch, length, heads, width),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads) - 1),
        "A": -0.1 - normal(batch, length, heads).abs(),
        "mix": torch.sigmoid(normal(batch, length, heads)),
        "B": normal(batch, length, heads, states),
        "C": normal(batch, length, heads, states),
    }
    start = (normal(batch, heads, width, states), normal(batch, heads, width), normal(batch, heads, states))
    inputs = {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}
    return inputs, TrapezoidalState(*(tensor.to(dtype).requires_grad_() for tensor in start))


def detached(shape, dtype=torch.float64):
    inputs, state = make_inputs(shape, dtype)
    return {name: x.detach() for name, x in inputs.items()}, TrapezoidalState(*(x.detach() for x in state))


def run(inputs, state, backend, **options):
    y, last = trapezoidal_ssd(**inputs, initial_state=state, return_last_state=True, backend=backend, **options)
    loss = y.square().sum() + sum(part.pow(3).sum() for part in last)
    given = (*inputs.values(), *(state or ()))
    return [y, *last, *torch.autograd.grad(loss, given)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 256])
@pytest.mark.parametrize("begun", [False, True])
def test_chunks_equal_the_reference(shape, chunk_size, begun):
    inputs, state = make_inputs(shape)
    state = state if begun else None
    fast = run(inputs, state, "torch", chunk_size=chunk_size)
    for ours, reference in zip(fast, run(inputs, state, "reference"), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_the_present_end_alone_is_ssd(backend):
    inputs, _ = detached((2, 45, 3, 4, 5))
    A = torch.tensor([-0.3, -1.0, -2.0], dtype=torch.float64)
    inputs |= {"mix": torch.ones_like(inputs["mix"]), "A": A.expand_as(inputs["A"])}
    expected = ssd(inputs["x"], inputs["dt"], A, inputs["B"], inputs["C"], backend="reference")
    torch.testing.assert_close(trapezoidal_ssd(**inputs, backend=backend), expected)


@pytest.mark.parametrize(("mix", "order"), [(0.5, 2), (1.0, 1), (0.0, 1)])
def test_the_middle_integrates_to_second_order(mix, order):
    """Drives h' = -h + sin(t) to t = 3 with steps of 3/64 and 3/128, and compares errors."""

    def error(steps):
        t = torch.arange(1, steps + 1, dtype=torch.float64).view(1, -1, 1) * 3 / steps
        one = torch.ones_like(t)
        y = trapezoidal_ssd(
            t.sin().unsqueeze(-1), one * 3 / steps, -one, mix * one, one.unsqueeze(-1), one.unsqueeze(-1)
        )
        exact = (t.sin() - t.cos() + (-t).exp()) / 2
        return (y.squeeze(-1) - exact)[:, -1].abs().item()

    assert error(64) / error(128) == pytest.approx(2**order, rel=0.1)


def test_steps_equal_every_prefix():
    inputs, start = detached((2, 37, 4, 3, 5))
    state = start
    for t in range(37):
        y_t, state = trapezoidal_ssd_step(*(inputs[name][:, t] for name in NAMES), state)
        prefix = {name: x[:, : t + 1] for name, x in inputs.items()}
        y, last = trapezoidal_ssd(**prefix, initial_state=start, return_last_state=True)
        torch.testing.assert_close(y_t, y[:, -1])
        for ours, whole in zip(state, last, strict=True):
            torch.testing.assert_close(ours, whole)


def test_a_sequence_goes_on_from_the_last_state():
    inputs, _ = detached((1, 50, 2, 3, 4))
    first, second = ({n: x[:, cut] for n, x in inputs.items()} for cut in (slice(0, 21), slice(21, None)))
    head, state = trapezoidal_ssd(**first, return_last_state=True)
    tail = trapezoidal_ssd(**second, initial_state=state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), trapezoidal_ssd(**inputs))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_derivatives_to_second_order(backend):
    inputs, state = make_inputs((1, 5, 1, 1, 2))

    def scan(*tensors):
        start = TrapezoidalState(*tensors[6:])
        y, last = trapezoidal_ssd(
            *tensors[:6], chunk_size=2, initial_state=start, return_last_state=True, backend=backend
        )
        return y, last.ssm

    tensors = (*inputs.values(), *state)
    assert torch.autograd.gradcheck(scan, tensors)
    assert torch.autograd.gradgradcheck(scan, tensors)


@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 1e3])
def test_extreme_steps_stay_finite(size):
    inputs, _ = make_inputs((1, 40, 2, 3, 5), torch.float32)
    A = (inputs["A"].detach() * 1e4).requires_grad_()
    extreme = {**inputs, "dt": torch.full_like(inputs["dt"], size).requires_grad_(), "A": A}
    y, state = trapezoidal_ssd(**extreme, return_last_state=True)
    for result in (y, *state, *torch.autograd.grad(y.sum() + state.ssm.sum(), tuple(extreme.values()))):
        assert result.isfinite().all()


@pytest.mark.parametrize("mix", [0.0, 1e-4, None])
def test_float32_is_near_float64(mix):
    wide, state = make_inputs((2, 197, 3, 8, 16))
    if mix is not None:
        wide["mix"] = torch.full_like(wide["mix"], mix).requires_grad_()
    narrow = {name: x.detach().float().requires_grad_() for name, x in wide.items()}
    begun = TrapezoidalState(*(x.detach().float().requires_grad_() for x in state))
    for fast, exact in zip(run(narrow, begun, "torch"), run(wide, state, "reference"), strict=True):
        assert (fast.double() - exact).abs().max() <= 5e-6 * exact.abs().max()


def test_half_precision_autocast_and_strided_views():
    inputs, _ = detached((2, 40, 4, 3, 5), torch.float32)
    strided = {name: x.mT.contiguous().mT for name, x in inputs.items()}
    expected = trapezoidal_ssd(**inputs)
    torch.testing.assert_close(trapezoidal_ssd(**strided), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(trapezoidal_ssd(**inputs), expected)
    half = {name: x.bfloat16() for name, x in inputs.items()}
    y, state = trapezoidal_ssd(**half, return_last_state=True)
    assert (y.dtype, state.ssm.dtype) == (torch.bfloat16, torch.float32)
    exact = trapezoidal_ssd(**{name: x.double() for name, x in half.items()})
    assert (y.double() - exact).abs().max() <= 0.01 * exact.abs().max()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_function_transforms_are_served(backend):
    inputs, _ = detached((2, 11, 2, 2, 3))

    def scan(x):
        return trapezoidal_ssd(**{**inputs, "x": x}, chunk_size=4, backend=backend)

    x, tangent = inputs["x"], torch.ones_like(inputs["x"])
    _, along = torch.func.jvp(scan, (x,), (tangent,))
    torch.testing.assert_close(along, scan(tangent))  # linear in x
    both = torch.func.vmap(scan)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(both[1], scan(2 * x))


def test_compiled_and_exported_programs_agree():
    inputs, _ = detached((1, 37, 2, 3, 5), torch.float32)

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return trapezoidal_ssd(*tensors, 8)

    tensors = tuple(inputs[name] for name in NAMES)
    expected = Scan()(*tensors)
    torch.testing.assert_close(torch.export.export(Scan(), tensors).module()(*tensors), expected)
    torch.testing.assert_close(torch.compile(Scan(), backend="eager", fullgraph=True)(*tensors), expected)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"x": torch.zeros(2, 5, 6)}, "x must be"),
        ({"x": torch.zeros(2, 5, 6, 3, dtype=torch.int64)}, "floating"),
        ({"x": torch.zeros(2, 0, 6, 3)}, "empty"),
        ({"dt": torch.zeros(2, 5, 5)}, "dt does not fit"),
        ({"A": torch.zeros(6)}, "A does not fit"),
        ({"mix": torch.zeros(1, 5, 6)}, "mix does not fit"),
        ({"B": torch.zeros(2, 5, 3, 4)}, "B does not fit"),
        ({"C": torch.zeros(2, 5, 6, 4)}, "C does not fit"),
    ],
)
def test_misfits_are_named(change, word):
    inputs, _ = detached((2, 5, 6, 3, 5))
    with pytest.raises(ShapeError, match=word):
        trapezoidal_ssd(**{**inputs, **change})


def test_choices_and_states_are_checked():
    inputs, state = detached((1, 5, 2, 3, 4))
    with pytest.raises(BackendError, match="did you mean torch"):
        trapezoidal_ssd(**inputs, backend="torh")
    with pytest.raises(ConfigError, match="chunk_size"):
        trapezoidal_ssd(**inputs, chunk_size=0)
    with pytest.raises(ShapeError, match=r"state\.ssm does not fit"):
        trapezoidal_ssd(**inputs, initial_state=state._replace(ssm=state.ssm.mT))
    with pytest.raises(ShapeError, match=r"\[B, H, P\]"):
        trapezoidal_ssd_step(*(inputs[name] for name in NAMES), state)
