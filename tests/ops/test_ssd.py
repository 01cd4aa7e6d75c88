"""State space duality: chunks against the reference, both against the selective scan, the step against prefixes."""

import pytest
import torch

from madzoo.errors import BackendError, ConfigError, ShapeError
from madzoo.ops import ssd_chunked
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.ssd import ssd, ssd_step

# B L H P G N
SHAPES = [(2, 1, 4, 3, 2, 5), (1, 33, 2, 8, 1, 4), (2, 63, 6, 1, 3, 1), (3, 70, 3, 5, 3, 2), (1, 197, 4, 4, 2, 16)]
TRANSFORM = {"dt_softplus": True}


def make_inputs(shape, dtype=torch.float64):
    batch, length, heads, width, groups, states = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    inputs = {
        "x": normal(batch, length, heads, width),
        "dt": normal(batch, length, heads),
        "A": -0.1 - normal(heads).abs(),
        "B": normal(batch, length, groups, states),
        "C": normal(batch, length, groups, states),
        "D": normal(heads),
        "z": normal(batch, length, heads, width),
        "dt_bias": normal(heads) - 1,
        "initial_state": normal(batch, heads, width, states),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}


def detached(shape, **options):
    return {name: tensor.detach() for name, tensor in make_inputs(shape, **options).items()}


def run(inputs, backend, **options):
    y, state = ssd(**inputs, dt_softplus=True, return_last_state=True, backend=backend, **options)
    loss = y.square().sum() + state.pow(3).sum()
    return [y, state, *torch.autograd.grad(loss, tuple(inputs.values()))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 256])
def test_chunks_equal_the_reference(shape, reverse, chunk_size):
    inputs = make_inputs(shape)
    reference = run(inputs, "reference", reverse=reverse)
    for fast, slow in zip(run(inputs, "torch", reverse=reverse, chunk_size=chunk_size), reference, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "initial_state"])
def test_optional_inputs(absent):
    inputs = {name: tensor for name, tensor in make_inputs((2, 40, 4, 3, 2, 3)).items() if name != absent}
    for fast, slow in zip(run(inputs, "torch"), run(inputs, "reference"), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_the_selective_scan_with_one_decay_per_head(backend, reverse):
    inputs = detached((2, 45, 6, 3, 2, 4))
    del inputs["initial_state"]
    y, state = ssd(**inputs, dt_softplus=True, return_last_state=True, reverse=reverse, backend=backend)

    def channels(name):  # [B, L, H, P] -> [B, H P, L]
        return inputs[name].flatten(2).transpose(1, 2)

    def per_channel(tensor, axis):
        return tensor.repeat_interleave(3, dim=axis)

    expected, last = selective_scan(
        channels("x"),
        per_channel(inputs["dt"].transpose(1, 2), 1),
        per_channel(inputs["A"], 0).unsqueeze(-1).expand(-1, 4),
        inputs["B"].permute(0, 2, 3, 1),
        inputs["C"].permute(0, 2, 3, 1),
        per_channel(inputs["D"], 0),
        channels("z"),
        per_channel(inputs["dt_bias"], 0),
        True,
        return_last_state=True,
        reverse=reverse,
        backend="reference",
    )
    torch.testing.assert_close(y, expected.transpose(1, 2).unflatten(2, (6, 3)))
    torch.testing.assert_close(state, last.unflatten(1, (6, 3)))


def test_reverse_is_the_scan_of_the_flipped_sequence():
    inputs = detached((2, 41, 4, 3, 2, 3))
    flipped = {name: x.flip(1) if name in ("x", "dt", "B", "C", "z") else x for name, x in inputs.items()}
    torch.testing.assert_close(ssd(**inputs, reverse=True, **TRANSFORM), ssd(**flipped, **TRANSFORM).flip(1))


def test_steps_equal_every_prefix():
    inputs = detached((2, 37, 4, 3, 2, 5))
    state = inputs.pop("initial_state")
    fixed = {name: inputs[name] for name in ("A", "D", "dt_bias")}
    start = state
    for t in range(37):
        now = {f"{name}_t": inputs[name][:, t] for name in ("x", "dt", "B", "C", "z")}
        y_t, state = ssd_step(**now, **fixed, state=state, **TRANSFORM)
        prefix = {name: x if name in fixed else x[:, : t + 1] for name, x in inputs.items()}
        y, last = ssd(**prefix, initial_state=start, return_last_state=True, **TRANSFORM)
        torch.testing.assert_close(y_t, y[:, -1])
        torch.testing.assert_close(state, last)


def test_a_sequence_goes_on_from_the_last_state():
    inputs = detached((1, 50, 2, 3, 1, 4))
    whole = ssd(**inputs, **TRANSFORM)
    first, second = ({n: x[:, cut] if n in ("x", "dt", "B", "C", "z") else x for n, x in inputs.items()}
                     for cut in (slice(0, 21), slice(21, None)))  # fmt: skip
    head, state = ssd(**first, return_last_state=True, **TRANSFORM)
    tail = ssd(**{**second, "initial_state": state}, **TRANSFORM)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_to_second_order(backend, reverse):
    inputs = make_inputs((1, 5, 2, 1, 1, 2))
    names = list(inputs)

    def scan(*tensors):
        named = dict(zip(names, tensors, strict=True))
        return ssd(**named, chunk_size=2, return_last_state=True, reverse=reverse, backend=backend, **TRANSFORM)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(scan, tuple(inputs.values()))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e3])
def test_extreme_steps_stay_finite(size, reverse):
    inputs = make_inputs((1, 40, 4, 3, 2, 5), torch.float32)
    del inputs["dt_bias"]
    A = (inputs["A"].detach() * 1e4).requires_grad_()
    extreme = {**inputs, "dt": torch.full_like(inputs["dt"], size).requires_grad_(), "A": A}
    y, state = ssd(**extreme, reverse=reverse, return_last_state=True)
    for result in (y, state, *torch.autograd.grad(y.sum() + state.sum(), tuple(extreme.values()))):
        assert result.isfinite().all()


def test_a_long_decay_costs_no_precision():
    """One step that forgets everything, and small steps after it: differences of cumulative sums would lose them."""
    inputs = detached((1, 32, 2, 3, 1, 4), dtype=torch.float32)
    dt = torch.full_like(inputs["dt"], 1e-2)
    dt[:, 3] = 1e4
    inputs |= {"dt": dt, "dt_bias": None, "z": None}
    exact = ssd(**{n: None if x is None else x.double() for n, x in inputs.items()}, backend="reference")
    y = ssd(**inputs).double()
    assert (y - exact)[:, 4:].abs().max() <= 2e-6 * exact[:, 4:].abs().max()


def test_float32_is_near_float64():
    wide = make_inputs((2, 197, 6, 8, 1, 16))
    narrow = {name: x.detach().float().requires_grad_() for name, x in wide.items()}
    for fast, exact in zip(run(narrow, "torch"), run(wide, "reference"), strict=True):
        assert (fast.double() - exact).abs().max() <= 5e-6 * exact.abs().max()


def test_half_precision_and_strided_views():
    inputs = detached((2, 40, 4, 3, 2, 5))
    strided = {name: x.mT.contiguous().mT if x.dim() > 1 else x for name, x in inputs.items()}
    torch.testing.assert_close(ssd(**strided), ssd(**inputs))
    half = {name: x.bfloat16() for name, x in inputs.items()}
    y, state = ssd(**half, return_last_state=True, **TRANSFORM)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = ssd(**{name: x.double() for name, x in half.items()}, **TRANSFORM)
    assert (y.double() - exact).abs().max() <= 0.01 * exact.abs().max()


def test_the_matrices_stay_in_float32_under_autocast():
    inputs = detached((1, 40, 2, 3, 1, 4), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ssd(**inputs)
    torch.testing.assert_close(y, ssd(**inputs))


def test_steps_are_clamped_last():
    inputs = detached((1, 9, 2, 3, 1, 4))
    clamped = ssd(**inputs, dt_limit=(0.2, 0.5), **TRANSFORM)
    dt = torch.nn.functional.softplus(inputs["dt"] + inputs["dt_bias"]).clamp(0.2, 0.5)
    torch.testing.assert_close(clamped, ssd(**{**inputs, "dt": dt, "dt_bias": None}))


def test_skip_weights_may_differ_by_channel():
    inputs = detached((1, 9, 4, 3, 2, 5))
    wide = inputs["D"].unsqueeze(-1).repeat(1, 3)
    torch.testing.assert_close(ssd(**{**inputs, "D": wide}), ssd(**inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_function_transforms_are_served(backend):
    inputs = detached((2, 11, 4, 2, 2, 3))

    def scan(x):
        return ssd(**{**inputs, "x": x}, chunk_size=4, backend=backend, **TRANSFORM)

    x, tangent = inputs["x"], torch.ones_like(inputs["x"])
    _, along = torch.func.jvp(scan, (x,), (tangent,))
    jacobian = torch.func.jacrev(scan)(x)
    torch.testing.assert_close(along, torch.tensordot(jacobian, tangent, dims=x.dim()))
    both = torch.func.vmap(scan)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(both[1], scan(2 * x))


def test_compiled_and_exported_programs_agree():
    inputs = detached((1, 37, 4, 3, 2, 5), dtype=torch.float32)
    tensors = tuple(inputs[name] for name in ("x", "dt", "A", "B", "C"))

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return ssd(*tensors, 8, **TRANSFORM)

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
        ({"A": torch.zeros(6, 2)}, "A does not fit"),
        ({"B": torch.zeros(2, 5, 4, 3)}, "B does not fit"),
        ({"C": torch.zeros(2, 5, 3, 4)}, "C does not fit"),
        ({"D": torch.zeros(3)}, "D does not fit"),
        ({"z": torch.zeros(2, 5, 6)}, "z does not fit"),
        ({"dt_bias": torch.zeros(1)}, "dt_bias does not fit"),
        ({"initial_state": torch.zeros(2, 6, 4, 3)}, "state does not fit"),
    ],
)
def test_misfits_are_named(change, word):
    inputs = detached((2, 5, 6, 3, 3, 5))
    with pytest.raises(ShapeError, match=word):
        ssd(**{**inputs, **change})


def test_choices_are_checked():
    inputs = detached((1, 5, 2, 3, 1, 4))
    with pytest.raises(BackendError, match="did you mean torch"):
        ssd(**inputs, backend="torh")
    with pytest.raises(ConfigError, match="chunk_size"):
        ssd(**inputs, chunk_size=0)
    with pytest.raises(ShapeError, match=r"\[B, H, P\]"):
        ssd_step(*(inputs[name] for name in ("x", "dt", "A", "B", "C", "initial_state")))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_all_chunks_at_once_as_compilers_trace_them(shape, reverse, chunk_size, monkeypatch):
    expected = run(make_inputs(shape), "reference", reverse=reverse)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(ssd_chunked, "_across", None)  # the loop is not called
    found = run(make_inputs(shape), "torch", reverse=reverse, chunk_size=chunk_size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Scan(torch.nn.Module):
    def forward(self, inputs):
        return ssd(**inputs, return_last_state=True, reverse=True, **TRANSFORM)


def test_an_exported_scan_does_not_grow_with_the_sequence():
    programs = {}
    for length in (70, 350):
        inputs = detached((2, length, 4, 3, 2, 5))
        programs[length] = torch.export.export(Scan(), (inputs,))
        torch.testing.assert_close(programs[length].module()(inputs), Scan()(inputs))
    small, large = (len(list(program.graph.nodes)) for program in programs.values())
    assert small == large
