"""The delta rule: chunks against the reference, both against products of projections, the step against prefixes."""

import pytest
import torch

from madzoo.errors import BackendError, ConfigError, ShapeError
from madzoo.ops import delta_rule_torch
from madzoo.ops.delta_rule import delta_rule, delta_rule_step

# B L H N P
SHAPES = [(2, 1, 4, 3, 2), (1, 33, 2, 8, 1), (2, 63, 3, 1, 5), (1, 70, 2, 4, 4), (1, 131, 2, 6, 3)]
BACKENDS = pytest.mark.parametrize("backend", ["chunked", "reference"])


def make_inputs(shape, dtype=torch.float64):
    batch, length, heads, keys, values = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    inputs = {
        "q": normal(batch, length, heads, keys),
        "k": torch.nn.functional.normalize(normal(batch, length, heads, keys), dim=-1),
        "v": normal(batch, length, heads, values),
        "beta": 2 * normal(batch, length, heads).sigmoid(),
        "initial_state": normal(batch, heads, values, keys),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}


def detached(shape, **options):
    return {name: tensor.detach() for name, tensor in make_inputs(shape, **options).items()}


def run(inputs, backend, **options):
    o, state = delta_rule(**inputs, return_last_state=True, backend=backend, **options)
    loss = o.square().sum() + state.pow(3).sum()
    return [o, state, *torch.autograd.grad(loss, tuple(inputs.values()))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 16, 256])
def test_chunks_equal_the_reference(shape, chunk_size):
    inputs = make_inputs(shape)
    reference = run(inputs, "reference")
    for fast, slow in zip(run(inputs, "chunked", chunk_size=chunk_size), reference, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@BACKENDS
def test_it_is_the_equation_of_the_paper(backend):
    inputs = detached((1, 20, 1, 5, 3))
    S, outputs = inputs["initial_state"][0, 0], []
    for q, k, v, beta in zip(*(inputs[name][0, :, 0] for name in ("q", "k", "v", "beta")), strict=True):
        S = S @ (torch.eye(5, dtype=S.dtype) - beta * torch.outer(k, k)) + beta * torch.outer(v, k)
        outputs.append(S @ q)
    o, state = delta_rule(**inputs, return_last_state=True, backend=backend, chunk_size=6)
    torch.testing.assert_close(o[0, :, 0], torch.stack(outputs))
    torch.testing.assert_close(state[0, 0], S)


@BACKENDS
def test_a_value_is_recalled_until_its_key_is_written_again(backend):
    keys = torch.eye(4)[[0, 1, 2, 0, 3]].reshape(1, 5, 1, 4)
    values = torch.arange(1.0, 6.0).reshape(1, 5, 1, 1)
    _, state = delta_rule(keys, keys, values, torch.ones(1, 5, 1), return_last_state=True, backend=backend)
    assert state.flatten().tolist() == [4.0, 2.0, 3.0, 5.0]


def test_the_state_begins_empty():
    inputs = make_inputs((2, 40, 3, 4, 3))
    zero = {**inputs, "initial_state": torch.zeros_like(inputs["initial_state"])}
    del inputs["initial_state"]
    for backend in ("chunked", "reference"):
        assert torch.equal(delta_rule(**inputs, backend=backend), delta_rule(**zero, backend=backend))


def test_steps_equal_every_prefix():
    inputs = detached((2, 37, 3, 4, 5))
    start = state = inputs.pop("initial_state")
    for t in range(37):
        o_t, state = delta_rule_step(*(x[:, t] for x in inputs.values()), state=state)
        prefix = {name: x[:, : t + 1] for name, x in inputs.items()}
        o, last = delta_rule(**prefix, initial_state=start, return_last_state=True, chunk_size=8)
        torch.testing.assert_close(o_t, o[:, -1])
        torch.testing.assert_close(state, last)


def test_a_sequence_goes_on_from_the_last_state():
    inputs = detached((1, 50, 2, 3, 4))
    whole, start = delta_rule(**inputs), inputs.pop("initial_state")
    first, second = ({n: x[:, cut] for n, x in inputs.items()} for cut in (slice(0, 21), slice(21, None)))
    head, state = delta_rule(**first, initial_state=start, return_last_state=True)
    tail = delta_rule(**second, initial_state=state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole)


@BACKENDS
def test_derivatives_to_second_order(backend):
    inputs = make_inputs((1, 5, 2, 2, 3))
    names = list(inputs)

    def scan(*tensors):
        named = dict(zip(names, tensors, strict=True))
        return delta_rule(**named, chunk_size=3, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(scan, tuple(inputs.values()))


@BACKENDS
@pytest.mark.parametrize("share", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("key", ["equal", "opposite", "zero", "random"])
def test_extreme_inputs_stay_finite(backend, share, key):
    inputs = make_inputs((1, 100, 2, 4, 3), torch.float32)
    k = inputs["k"].detach()
    same, turns = k[:, :1].expand_as(k), torch.tensor([1.0, -1.0]).repeat(50).view(1, 100, 1, 1)
    k = {"equal": same, "opposite": same * turns, "zero": torch.zeros_like(k), "random": k}[key]
    extreme = {
        "q": inputs["q"],
        "k": k.clone().requires_grad_(),
        "v": (1e30 * inputs["v"].detach()).requires_grad_(),
        "beta": torch.full_like(inputs["beta"], share).requires_grad_(),
        "initial_state": inputs["initial_state"],
    }
    o, state = delta_rule(**extreme, return_last_state=True, backend=backend)
    for result in (o, state, *torch.autograd.grad((o / 1e30).sum(), tuple(extreme.values()))):
        assert result.isfinite().all()


def test_float32_is_near_float64():
    wide = make_inputs((2, 197, 3, 8, 6))
    narrow = {name: x.detach().float().requires_grad_() for name, x in wide.items()}
    for fast, exact in zip(run(narrow, "chunked"), run(wide, "reference"), strict=True):
        assert (fast.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_half_precision_and_strided_views():
    inputs = detached((2, 40, 4, 3, 5))
    strided = {name: x.mT.contiguous().mT for name, x in inputs.items()}
    torch.testing.assert_close(delta_rule(**strided), delta_rule(**inputs))
    half = {name: x.bfloat16() for name, x in inputs.items()}
    o, state = delta_rule(**half, return_last_state=True)
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = delta_rule(**{name: x.double() for name, x in half.items()})
    assert (o.double() - exact).abs().max() <= 0.01 * exact.abs().max()


def test_the_matrices_stay_in_float32_under_autocast():
    inputs = detached((1, 40, 2, 3, 4), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = delta_rule(**inputs)
    torch.testing.assert_close(o, delta_rule(**inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
@BACKENDS
def test_function_transforms_are_served(backend):
    inputs = detached((2, 11, 2, 3, 2))

    def scan(k):
        return delta_rule(**{**inputs, "k": k}, chunk_size=4, backend=backend)

    k, tangent = inputs["k"], torch.ones_like(inputs["k"])
    _, along = torch.func.jvp(scan, (k,), (tangent,))
    jacobian = torch.func.jacrev(scan)(k)
    torch.testing.assert_close(along, torch.tensordot(jacobian, tangent, dims=k.dim()))
    both = torch.func.vmap(scan)(torch.stack([k, 2 * k]))
    torch.testing.assert_close(both[1], scan(2 * k))


def test_compiled_and_exported_programs_agree():
    inputs = tuple(detached((1, 37, 2, 3, 5), dtype=torch.float32).values())[:4]

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return delta_rule(*tensors, chunk_size=8)

    expected = Scan()(*inputs)
    torch.testing.assert_close(torch.export.export(Scan(), inputs).module()(*inputs), expected)
    torch.testing.assert_close(torch.compile(Scan(), backend="eager", fullgraph=True)(*inputs), expected)


def test_where_no_solver_is_exported_the_system_is_solved_row_by_row(monkeypatch):
    inputs = detached((1, 37, 2, 3, 5))
    expected = delta_rule(**inputs)
    monkeypatch.setattr(delta_rule_torch, "is_onnx_export", lambda: True)
    torch.testing.assert_close(delta_rule(**inputs), expected)


def test_errors():
    inputs = detached((1, 9, 2, 3, 4))
    for name, wrong in {
        "q": torch.zeros(1, 9, 2, 4),
        "k": torch.zeros(1, 9, 2),
        "v": torch.zeros(1, 0, 2, 4),
        "beta": torch.zeros(1, 9, 2, 1),
        "initial_state": torch.zeros(1, 2, 3, 4),
    }.items():
        with pytest.raises(ShapeError, match="delta_rule"):
            delta_rule(**{**inputs, name: wrong})
    with pytest.raises(ShapeError, match="floating"):
        delta_rule(**{**inputs, "beta": torch.ones(1, 9, 2, dtype=torch.long)})
    with pytest.raises(ShapeError, match="delta_rule"):
        delta_rule_step(*list(inputs.values())[:4], state=inputs["initial_state"])
    with pytest.raises(BackendError, match="unknown backend"):
        delta_rule(**inputs, backend="chunky")
    with pytest.raises(ConfigError, match="chunk_size"):
        delta_rule(**inputs, chunk_size=0)
