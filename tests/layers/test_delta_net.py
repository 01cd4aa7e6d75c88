"""DeltaNet: the published layer written out, stepping, symmetries."""

import pytest
import torch
from step_check import assert_steps_equal_the_whole
from symmetry_check import assert_symmetries_hold
from torch.nn.functional import conv1d, linear, pad, silu

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.delta_net import DeltaNet

FORMS = pytest.mark.parametrize(
    "options",
    [{}, {"num_heads": 2, "expand_k": 0.5, "d_conv": 1}, {"num_heads": 1, "expand_v": 2.0, "allow_neg_eigval": True}],
    ids=str,
)


def build(options, d_model=8):
    torch.manual_seed(0)
    return DeltaNet(d_model, **options).double()


def read_aloud(layer, x, *, num_heads=4, allow_neg_eigval=False, **_):
    """The layer as the paper and its authors' code have it, one head and one position after another."""
    p = dict(layer.named_parameters())

    def branch(name):
        taps = p[f"{name}_conv1d.weight"]
        padded = pad(linear(x, p[f"{name}_proj.weight"]).mT, (taps.shape[-1] - 1, 0))
        return silu(conv1d(padded, taps, groups=len(taps))).mT.unflatten(-1, (num_heads, -1))

    q, k, v = (branch(name) for name in "qkv")
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    beta = linear(x, p["b_proj.weight"]).sigmoid() * (2 if allow_neg_eigval else 1)
    o = torch.zeros_like(v)
    for b in range(len(x)):
        for h in range(num_heads):
            S = x.new_zeros(v.shape[-1], k.shape[-1])
            for t in range(x.shape[1]):
                key = k[b, t, h]
                S = S + beta[b, t, h] * torch.outer(v[b, t, h] - S @ key, key)
                o[b, t, h] = S @ q[b, t, h] / q.shape[-1] ** 0.5
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["o_norm.weight"]
    return linear(o.flatten(2), p["o_proj.weight"])


@FORMS
@torch.no_grad()
def test_published_layer(options):
    layer = build(options)
    layer.o_norm.weight += 0.3 * torch.randn_like(layer.o_norm.weight)
    x = torch.randn(2, 35, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), read_aloud(layer, x, **options), rtol=1e-10, atol=1e-10)


@FORMS
@torch.no_grad()
def test_step_equals_forward_on_every_prefix(options):
    x = torch.randn(2, 37, 8, dtype=torch.float64)
    assert_steps_equal_the_whole(build(options), x, tolerance=1e-10)


def test_published_parameters():
    layer = DeltaNet(16, num_heads=2, expand_k=0.5, d_conv=3)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "q_proj.weight": (8, 16),
        "k_proj.weight": (8, 16),
        "v_proj.weight": (16, 16),
        "b_proj.weight": (2, 16),
        "q_conv1d.weight": (8, 1, 3),
        "k_conv1d.weight": (8, 1, 3),
        "v_conv1d.weight": (16, 1, 3),
        "o_norm.weight": (8,),
        "o_proj.weight": (16, 16),
    }


@FORMS
def test_symmetries(options):
    assert_symmetries_hold(build(options, d_model=4), torch.randn(2, 9, 4, dtype=torch.float64))


def test_every_parameter_learns_also_from_silence():
    layer = build({})
    layer(torch.randn(2, 40, 8, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    silence = torch.zeros(1, 40, 8, dtype=torch.float64, requires_grad=True)
    layer(silence).sum().backward()
    assert silence.grad is not None and silence.grad.isfinite().all()


def test_follows_the_dtype_and_the_device_of_its_parameters():
    with torch.device("meta"):
        assert all(p.is_meta for p in DeltaNet(8).parameters())
    x = torch.randn(2, 70, 8)
    half = DeltaNet(8).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half.init_state(2).memory.dtype == torch.float32


def test_errors():
    for bad in ({"num_heads": 3}, {"num_heads": 0}, {"expand_k": 0.0}, {"expand_v": 0.75}, {"d_conv": 0}):
        with pytest.raises(ConfigError):
            build(bad)
    with pytest.raises(TypeError):
        build({"use_gate": True})
    with pytest.raises(ShapeError, match="DeltaNet"):
        build({})(torch.zeros(2, 9, 4, dtype=torch.float64))
    with pytest.raises(ShapeError, match="DeltaNet"):
        build({}).step(torch.zeros(2, 9, 8, dtype=torch.float64), build({}).init_state(2))
