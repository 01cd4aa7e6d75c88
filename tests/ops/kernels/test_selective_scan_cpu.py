"""The compiled selective scan: equal to the reference on every instruction set, and a good citizen of torch."""

import pytest
import torch

from madzoo.errors import BackendError
from madzoo.ops import selective_scan, use_backend
from madzoo.ops.kernels.library import instruction_set, kernel_library, kernel_status

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="this machine has no compiled kernels")

ISAS = kernel_status().isas
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
# B D L G N: channels that fill no vector, one position, one state, states that fill no block, groups.
SHAPES = [
    (2, 20, 37, 1, 16),
    (1, 5, 1, 1, 1),
    (2, 12, 16, 3, 4),
    (1, 33, 50, 1, 64),
    (2, 34, 20, 2, 5),
    (3, 16, 33, 1, 8),
]


def make_inputs(shape, *, channel_last=True, seed=0):
    batch, channels, length, groups, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def sequence():
        return normal(batch, length, channels).transpose(1, 2) if channel_last else normal(batch, channels, length)

    def vectors():
        if channel_last:
            return normal(batch, groups, length, states).transpose(2, 3)
        return normal(batch, groups, states, length)

    A = -torch.arange(1.0, states + 1, dtype=torch.float64) * (0.1 + normal(channels, states).abs())
    values = (sequence(), sequence() - 2, A, vectors(), vectors(), normal(channels), sequence(), normal(channels))
    return dict(zip(NAMES, values, strict=True))


def leaves(inputs, dtype=torch.float64):
    return {name: x.to(dtype).detach().requires_grad_() for name, x in inputs.items()}


def run(inputs, backend, **options):
    """Returns output, last state and every gradient of a loss with fixed weights."""
    y, state = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, state)]
    loss = (y * weights[0]).sum() + (state * weights[1]).sum()
    return dict(
        zip(("y", "last_state", *inputs), (y, state, *torch.autograd.grad(loss, tuple(inputs.values()))), strict=True)
    )


def relative_errors(found, true):
    return {name: float((found[name].double() - x).abs().max() / x.abs().max()) for name, x in detached(true).items()}


def detached(tensors):
    return {name: x.detach() for name, x in tensors.items()}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channel_last", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(shape, reverse, channel_last, isa):
    inputs = make_inputs(shape, channel_last=channel_last)
    true = run(leaves(inputs), "reference", reverse=reverse)
    with instruction_set(isa):
        double = run(leaves(inputs), "cpu", reverse=reverse)
        single = run(leaves(inputs, torch.float32), "cpu", reverse=reverse)
    assert max(relative_errors(detached(double), true).values()) < 1e-12
    errors = relative_errors(detached(single), true)
    assert errors["y"] < 5e-7
    assert max(errors.values()) < 2e-6


@pytest.mark.parametrize("absent", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")], ids=str)
def test_optional_inputs(absent):
    inputs = {name: x for name, x in make_inputs((2, 18, 19, 1, 3)).items() if name not in absent}
    true, found = run(leaves(inputs), "reference"), run(leaves(inputs), "cpu")
    assert max(relative_errors(detached(found), true).values()) < 1e-12


def test_steps_without_softplus():
    inputs = make_inputs((2, 18, 19, 1, 3))
    inputs["delta"] = inputs["delta"].abs()
    fast, slow = (selective_scan(**inputs, delta_softplus=False, backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("shape", "reverse"), [((1, 3, 1, 1, 1), False), ((1, 17, 2, 1, 4), True), ((2, 2, 18, 1, 8), True),
                           ((1, 1, 3, 1, 16), False), ((1, 2, 2, 1, 64), False), ((1, 4, 5, 2, 3), False)], ids=str
)  # fmt: skip
def test_gradcheck(shape, reverse, isa):
    inputs = leaves(make_inputs(shape))

    def function(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True, reverse=reverse, backend="cpu")

    with instruction_set(isa):
        assert torch.autograd.gradcheck(function, tuple(inputs.values()))


def test_strided_views_are_read_as_they_lie():
    whole = torch.randn(2, 21, 3 * 20, dtype=torch.float64)
    u, delta, z = (x.transpose(1, 2)[..., ::2] for x in whole.split(20, dim=-1))
    B, C = torch.randn(2, 11, 9, dtype=torch.float64).transpose(1, 2).split([4, 5], dim=1)
    A = -torch.rand(20, 4, dtype=torch.float64)
    outputs = [
        selective_scan(u, delta, A, B, C[:, :4], None, z, None, True, backend=name) for name in ("cpu", "reference")
    ]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


def test_the_output_lies_as_the_input():
    inputs = make_inputs((2, 20, 9, 1, 4))
    assert selective_scan(**inputs, backend="cpu").stride() == (9 * 20, 1, 20)
    inputs["u"] = inputs["u"].contiguous()
    assert selective_scan(**inputs, backend="cpu").stride() == (9 * 20, 9, 1)


def test_second_derivatives():
    inputs = leaves(make_inputs((1, 3, 5, 1, 2)))

    def gradient(backend):
        y = selective_scan(**inputs, delta_softplus=True, backend=backend)
        first = torch.autograd.grad(y.square().sum(), tuple(inputs.values()), create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), tuple(inputs.values()))

    for fast, slow in zip(gradient("cpu"), gradient("reference"), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("used", ["y", "last_state"])
def test_outputs_that_nobody_used(used):
    def gradients(backend):
        inputs = leaves(make_inputs((2, 18, 19, 1, 3)))
        outputs = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)
        loss = outputs[("y", "last_state").index(used)].square().sum()
        return torch.autograd.grad(loss, tuple(inputs.values()), allow_unused=True, materialize_grads=True)

    for fast, slow in zip(gradients("cpu"), gradients("reference"), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_and_steps_of_any_size(dtype, isa):
    inputs = {name: x.to(dtype) for name, x in make_inputs((1, 17, 8, 1, 2)).items()}
    sizes = torch.tensor([0.0, 1.0, 90.0, 800.0, 1e15, 1e30, -90.0, -1e30], dtype=dtype)
    inputs["z"], inputs["delta"] = sizes.expand(1, 17, 8), -sizes.abs().expand(1, 17, 8)
    with instruction_set(isa):
        fast, slow = (selective_scan(**inputs, delta_softplus=True, backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_the_bits_do_not_depend_on_the_threads():
    inputs = make_inputs((1, 96, 65, 1, 16))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(leaves(inputs, torch.float32), "cpu"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, other[name]) for name, x in results[0].items())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dt", [1e-8, 1.0, 1e3])
@pytest.mark.parametrize("decay", [-1e-6, -1.0, -1e4])
def test_extreme_steps_and_decays_stay_finite(decay, dt, dtype, isa):
    inputs = {name: x.to(dtype) for name, x in make_inputs((1, 17, 40, 1, 8)).items()}
    inputs["A"], inputs["delta"] = torch.full_like(inputs["A"], decay), torch.full_like(inputs["delta"], dt)
    del inputs["delta_bias"]
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    with instruction_set(isa):
        y = selective_scan(**inputs, backend="cpu")
        grads = torch.autograd.grad(y.sum(), tuple(inputs.values()))
    true = selective_scan(**{name: x.double() for name, x in inputs.items()}, backend="reference")
    assert all(x.isfinite().all() for x in (y, *grads))
    torch.testing.assert_close(y.double(), true, rtol=1e-4, atol=2e-6 * float(true.detach().abs().max()))


@pytest.mark.parametrize("isa", ISAS)
def test_denormals_count_as_zero(isa):
    """They would cost a hundred cycles each; flushed, they cost nothing, and the caller's own arithmetic keeps them."""
    inputs = {name: x.float() for name, x in make_inputs((1, 17, 20, 1, 4)).items()}
    inputs["u"] = torch.full_like(inputs["u"], 1e-40)
    with instruction_set(isa):
        assert (selective_scan(**inputs, backend="cpu") == 0).all()
    assert torch.tensor(1e-40) * 2 != 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("largest", [50.0, 82.0, 84.0, 200.0])
def test_exponents_on_both_sides_of_the_quick_path(largest, isa):
    """Chunks whose exponents stay below 120 binary digits, about 83 natural ones, take a quicker exponential."""
    inputs = {name: x for name, x in make_inputs((1, 17, 40, 1, 4)).items() if name != "delta_bias"}
    inputs["delta"] = torch.rand_like(inputs["delta"])
    inputs["A"] = -torch.rand_like(inputs["A"]) * largest
    inputs["delta"][:, :, 7], inputs["A"][:, 2] = 1.0, -largest
    with instruction_set(isa):
        found = selective_scan(**{name: x.float() for name, x in inputs.items()}, backend="cpu")
    true = selective_scan(**inputs, backend="reference")
    torch.testing.assert_close(found.double(), true, rtol=0, atol=5e-7 * float(true.abs().max()))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_a_strange_step_does_not_hide_a_huge_one_before_it(strange, isa):
    inputs = {name: x.float() for name, x in make_inputs((1, 16, 12, 1, 4)).items() if name != "delta_bias"}
    inputs["delta"] = torch.full_like(inputs["delta"], 0.1)
    inputs["delta"][:, :, 3], inputs["delta"][:, :, 6] = 1e6, strange
    with instruction_set(isa):
        found = selective_scan(**inputs, backend="cpu")
    true = selective_scan(**inputs, backend="reference")
    torch.testing.assert_close(found[..., :6], true[..., :6], rtol=1e-5, atol=1e-5)
    assert not found[..., 6:].isfinite().any()


def test_a_nan_stays_where_time_carries_it():
    inputs = make_inputs((1, 17, 40, 1, 4))
    inputs["u"][0, 3, 20] = torch.nan
    y = selective_scan(**inputs, backend="cpu")
    assert y[0, 3, 20:].isnan().all()
    assert int(y.isnan().sum()) == 20


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own, from torch 2.14 on
@pytest.mark.parametrize("options", [(True, False), (False, True)])
def test_opcheck(options):
    inputs = make_inputs((2, 5, 19, 1, 3))
    inputs = leaves(inputs | {"delta": inputs["delta"].abs()}, torch.float32)
    torch.library.opcheck(torch.ops.madzoo.selective_scan.default, (*inputs.values(), *options, True))
    some = {name: None if name in ("D", "z", "delta_bias") else x for name, x in inputs.items()}
    torch.library.opcheck(torch.ops.madzoo.selective_scan.default, (*some.values(), *options, True))


def test_compiled_and_exported_it_is_one_node():
    inputs = leaves(make_inputs((2, 20, 33, 1, 5)), torch.float32)

    def function(*tensors):
        return selective_scan(**dict(zip(inputs, tensors, strict=True)), delta_softplus=True)

    eager = function(*inputs.values())
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(*inputs.values())
    assert torch.equal(compiled, eager)
    for one, other in zip(
        torch.autograd.grad(compiled.sum(), tuple(inputs.values())),
        torch.autograd.grad(eager.sum(), tuple(inputs.values())),
        strict=True,
    ):
        assert torch.equal(one, other)

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    program = torch.export.export(Scan(), tuple(x.detach() for x in inputs.values()))
    assert torch.ops.madzoo.selective_scan.default in [node.target for node in program.graph.nodes]
    assert torch.equal(program.module()(*inputs.values()), eager)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at the first jvp
def test_function_transforms_agree_with_the_kernel():
    inputs = make_inputs((3, 4, 6, 1, 2))
    batched = {name: x for name, x in inputs.items() if name in ("u", "delta", "B", "C", "z")}
    fixed = {name: x for name, x in inputs.items() if name not in batched}

    def single(named):
        return selective_scan(**{name: x.unsqueeze(0) for name, x in named.items()}, **fixed, delta_softplus=True)[0]

    torch.testing.assert_close(
        torch.func.vmap(single)(batched), selective_scan(**inputs, delta_softplus=True, backend="cpu")
    )
    primal, tangent = inputs["u"], torch.randn_like(inputs["u"])

    def of_u(u):
        return selective_scan(**(inputs | {"u": u}), delta_softplus=True)

    _, forward_mode = torch.func.jvp(of_u, (primal,), (tangent,))
    whole = torch.func.jacrev(of_u)(primal)
    torch.testing.assert_close(forward_mode, torch.einsum("abcdef,def->abc", whole, tangent))


def test_what_it_does_not_serve_is_an_error():
    inputs = make_inputs((1, 3, 4, 1, 2))
    with pytest.raises(BackendError, match="does not serve constant B or C"):
        selective_scan(**(inputs | {"B": inputs["A"]}), backend="cpu")
    real = torch.view_as_real(inputs["B"] + 0j).flatten(-2)
    with pytest.raises(BackendError, match="does not serve complex A"), use_backend("cpu"):
        selective_scan(**(inputs | {"A": inputs["A"] + 0j, "B": real, "C": real}))


def test_use_backend_gives_auto_another_meaning():
    inputs = leaves(make_inputs((1, 3, 4, 1, 2)))
    assert selective_scan(**inputs).grad_fn is not None
    with use_backend("reference"):
        assert "SelectiveScan" not in type(selective_scan(**inputs).grad_fn).__name__
    with pytest.raises(BackendError, match="unknown backend"), use_backend("refernce"):
        pass
