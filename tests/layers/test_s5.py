"""The S5 layer against an independent loop and a real dense system, its steps, its initialisation, published names."""

import math

import pytest
import torch
from step_check import assert_steps_equal_the_whole, stepped
from symmetry_check import assert_symmetries_hold

from madzoo.errors import ConfigError, NotCausalError, ShapeError
from madzoo.layers.s5 import S5

OPTIONS = [
    {},
    {"discretization": "bilinear", "clip_eigs": True},
    {"conj_sym": False, "C_init": "lecun_normal", "step_rescale": 0.5},
    {"conj_sym": False, "blocks": 4, "d_state": 12, "discretization": "bilinear", "C_init": "complex_normal"},
]


def small(**options):
    torch.manual_seed(0)
    return S5(5, **{"d_state": 12, "blocks": 2, "dt_min": 0.05, "dt_max": 0.5, **options}).double()


def looped(layer, x_BLH):
    """Computes the layer state after state and position after position, in complex numbers as the paper writes it."""
    rate = layer.Lambda_re.clamp(max=-1e-4) if layer.clip_eigs else layer.Lambda_re
    rate = rate + 1j * layer.Lambda_im
    step = layer.step_rescale * layer.log_step.exp()
    if layer.discretization == "zoh":
        kept, gain = torch.exp(rate * step), (torch.exp(rate * step) - 1) / rate
    else:
        kept, gain = (1 + step / 2 * rate) / (1 - step / 2 * rate), step / (1 - step / 2 * rate)
    B, C = layer.B[..., 0] + 1j * layer.B[..., 1], layer.C[..., 0] + 1j * layer.C[..., 1]
    states = len(rate)
    y = x_BLH * layer.D
    for direction in range(1 + layer.bidirectional):
        x, found = torch.zeros(len(x_BLH), states, dtype=rate.dtype), []
        inputs = x_BLH.flip(1) if direction else x_BLH
        for u in inputs.unbind(1):
            x = kept * x + gain * torch.einsum("ph,bh->bp", B, u.to(B.dtype))
            found.append(torch.einsum("hp,bp->bh", C[:, direction * states : (direction + 1) * states], x).real)
        read = torch.stack(found[::-1] if direction else found, 1)
        y = y + (2 * read if layer.conj_sym else read)
    return y


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63])
def test_the_scan_equals_a_loop(options, bidirectional, length):
    layer = small(bidirectional=bidirectional, **options)
    x = torch.randn(2, length, 5, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), looped(layer, x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    weights, given = torch.randn_like(y), (x, *layer.parameters())
    ours = torch.autograd.grad((y * weights).sum(), given)
    for gradient, reference in zip(ours, torch.autograd.grad((expected * weights).sum(), given), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_the_whole_on_every_prefix(options):
    layer, x = small(**options), torch.randn(2, 41, 5, dtype=torch.float64)
    assert_steps_equal_the_whole(layer, x, tolerance=1e-10)


def test_float32_is_near_float64():
    layer, x = small(bidirectional=True), torch.randn(2, 197, 5, dtype=torch.float64)
    exact = layer(x)
    y = layer.float()(x.float())
    assert y.dtype == torch.float32
    assert (y - exact).abs().max() < 2e-5 * exact.abs().max()


def hippo_normal(size):
    """Writes the normal part of HiPPO-LegS down entry by entry."""
    normal = torch.zeros(size, size, dtype=torch.float64)
    for n in range(size):
        for k in range(size):
            both = math.sqrt((2 * n + 1) * (2 * k + 1))
            normal[n, k] = -0.5 if n == k else (-0.5 if n > k else 0.5) * both
    return normal


def test_it_starts_as_real_hippo_blocks():
    """With one step size for all states, the complex layer is a real dense system made of the HiPPO blocks."""
    layer, step, A = small(), 0.3, torch.block_diag(hippo_normal(6), hippo_normal(6))
    _, V = torch.linalg.eigh(-0.5j * (hippo_normal(6) - hippo_normal(6).T))
    V = torch.block_diag(V[:, :3], V[:, :3])
    C = torch.randn(5, 12, dtype=torch.float64)
    rates = layer.Lambda_re + 1j * layer.Lambda_im
    torch.testing.assert_close(2 * (V * rates @ V.mH).real, A, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        rates = torch.linalg.eigvals(A)
        rates = torch.stack(sorted(rates[rates.imag < 0], key=lambda rate: rate.imag.item()))
        layer.Lambda_re.fill_(-0.5)
        layer.Lambda_im.copy_(rates.imag[::2].repeat(2))
        layer.log_step.fill_(math.log(step))
        layer.C.copy_(torch.view_as_real(C.to(V.dtype) @ V))
    B = 2 * (V @ torch.view_as_complex(layer.B.detach())).real
    A_bar = torch.linalg.matrix_exp(step * A)
    B_bar = torch.linalg.solve(A, (A_bar - torch.eye(12)) @ B)
    u = torch.randn(1, 30, 5, dtype=torch.float64)
    x, found = torch.zeros(12, dtype=torch.float64), []
    for u_t in u[0]:
        x = A_bar @ x + B_bar @ u_t
        found.append(C @ x + layer.D * u_t)
    torch.testing.assert_close(layer(u)[0], torch.stack(found), rtol=1e-9, atol=1e-9)


def test_initial_values():
    torch.manual_seed(0)
    layer = S5(64, dt_min=0.01, dt_max=0.1)
    assert [tuple(p.shape) for p in layer.parameters()] == [(128,), (128,), (128, 64, 2), (64, 128, 2), (64,), (128,)]
    assert list(layer.state_dict()) == ["Lambda_re", "Lambda_im", "B", "C", "D", "log_step"]
    assert torch.equal(layer.Lambda_re, torch.full((128,), -0.5))
    assert torch.equal(layer.Lambda_im[:16], layer.Lambda_im[-16:])
    assert layer.Lambda_im.max() < 0
    assert 0.01 <= layer.log_step.exp().min() < layer.log_step.exp().max() <= 0.1
    # A unitary change of basis keeps the sum of squares: 256 real rows of variance 1 / 256 become 128 complex ones.
    assert layer.B.square().sum().item() == pytest.approx(64 / 2, rel=0.05)
    assert layer.C.square().sum().item() == pytest.approx(64, rel=0.05)
    assert S5(64, C_init="lecun_normal").C.square().sum().item() == pytest.approx(1, rel=0.05)
    assert S5(64, C_init="complex_normal").C.square().mean().item() == pytest.approx(0.5, rel=0.05)
    whole = S5(64, conj_sym=False, bidirectional=True)
    assert whole.C.shape == (64, 512, 2)
    assert whole.Lambda_im.sum().abs() < 1e-2
    assert layer.no_weight_decay() == {"Lambda_re", "Lambda_im", "B", "log_step"}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_published_state_dicts_load_as_they_are(bidirectional):
    ours = S5(5, d_state=12, blocks=2, conj_sym=False, bidirectional=bidirectional)
    x = torch.randn(2, 9, 5)
    state = ours.state_dict()
    jax = {**state, "log_step": state["log_step"].unsqueeze(-1)}
    if bidirectional:
        jax["C1"], jax["C2"] = jax.pop("C").chunk(2, dim=1)
    port = {f"seq.{name}": state[name] for name in ("B", "D", "log_step")}
    port |= {"seq.Lambda": torch.complex(state["Lambda_re"], state["Lambda_im"])}
    port |= {"seq.C": torch.view_as_complex(state["C"])}
    for published in (state, jax, port):
        names = set(published)
        other = S5(5, d_state=12, blocks=2, conj_sym=False, bidirectional=bidirectional)
        nested = torch.nn.Sequential(other)
        nested.load_state_dict({f"0.{name}": tensor for name, tensor in published.items()}, strict=True)
        torch.testing.assert_close(other(x), ours(x))
        S5(5, d_state=12, conj_sym=False, blocks=2, bidirectional=bidirectional).load_state_dict(published, strict=True)
        assert set(published) == names
    with pytest.raises(RuntimeError, match="Unexpected"):
        ours.load_state_dict({**jax, "seq.E": x}, strict=True)


@pytest.mark.parametrize(
    ("options", "dimensions"), [({}, [6, 3]), ({"bidirectional": True, "discretization": "bilinear"}, [6, 3])]
)
def test_symmetries(options, dimensions):
    layer = S5(2, d_state=6, blocks=1, dt_min=0.1, dt_max=1.0, **options).double()
    assert [symmetry.dimension for symmetry in layer.symmetries()] == dimensions
    assert_symmetries_hold(layer, torch.randn(2, 7, 2, dtype=torch.float64))


def test_symmetries_are_all_there_are():
    """The rank of the derivative: 2 P for Lambda, 4 P H for B and C, H for D, less 2 P; log_step adds nothing."""
    layer, x = S5(2, d_state=6, blocks=1, dt_min=0.1, dt_max=1.0).double(), torch.randn(10, 20, 2, dtype=torch.float64)
    params = {name: p.detach() for name, p in layer.named_parameters()}
    jacobian = torch.func.jacrev(lambda params: torch.func.functional_call(layer, params, (x,)).flatten())(params)
    columns = torch.cat([part.flatten(1) for part in jacobian.values()], dim=1)
    assert columns.shape[1] == 35
    assert torch.linalg.matrix_rank(columns, rtol=1e-10) == 26 == 35 - sum(s.dimension for s in layer.symmetries())


def test_eigenvalues_are_clipped_if_asked():
    layer = small(clip_eigs=True)
    with torch.no_grad():
        layer.Lambda_re.add_(1.0)
    assert layer.discretize()[0].abs().max() < 1
    assert [symmetry.name for symmetry in layer.symmetries()] == ["s5.state_basis"]


def test_half_precision_autocast_and_meta():
    layer, x = S5(4, d_state=8, blocks=2), torch.randn(1, 6, 4)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), expected)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    half, x = layer.to(torch.bfloat16), x.bfloat16()
    assert half(x).dtype == stepped(half, x).dtype == torch.bfloat16
    assert half.init_state(1).dtype == torch.complex64
    with torch.device("meta"):
        assert all(p.is_meta for p in S5(16).parameters())


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # the compiler's own, on Python 3.13.0
def test_compiled_and_exported_programs_agree():
    layer, x = S5(4, d_state=8, blocks=2).eval(), torch.randn(2, 37, 4)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
        torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))


def test_misfits_are_told():
    layer = S5(6, d_state=8, blocks=2)
    for wrong in (torch.randn(2, 20, 5), torch.randn(20, 6), torch.randn(2, 0, 6)):
        with pytest.raises(ShapeError):
            layer(wrong)
    with pytest.raises(ShapeError, match=r"\[B, H\]"):
        layer.step(torch.randn(2, 1, 6), layer.init_state(2))
    for options in ({"blocks": 3}, {"blocks": 0}, {"d_state": 10, "blocks": 2}, {"dt_min": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            S5(6, **options)
    for options in ({"discretization": "bilinaer"}, {"C_init": "lecun"}):
        with pytest.raises(ConfigError, match="did you mean"):
            S5(6, **options)
    both = S5(6, d_state=8, blocks=2, bidirectional=True)
    with pytest.raises(NotCausalError):
        both.init_state(2)
    with pytest.raises(NotCausalError):
        both.step(torch.randn(2, 6), layer.init_state(2))
