"""The SS2D mixer against its formula written out, direction by direction; names, initial values, symmetries."""

import pytest
import torch
from symmetry_check import assert_symmetries_hold
from torch import nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.ss2d import SS2D
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.ssd import ssd

SELECTIVE_NAMES = ["x_proj_weight", "A_logs", "Ds", "dt_projs_weight", "dt_projs_bias"]


def mixer(d_model=6, *, d_state=3, dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = SS2D(d_model, d_state=d_state, **options).to(dtype).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def grid(height=3, width=5, *, channels=6, dtype=torch.float64):
    return torch.randn(2, height, width, channels, generator=torch.Generator().manual_seed(1), dtype=dtype)


def four_sequences(x_BDHW):
    rows, columns = x_BDHW.flatten(2), x_BDHW.transpose(2, 3).flatten(2)
    return [rows, columns, rows.flip(-1), columns.flip(-1)]


def one_grid(ys_BDL, height, width):
    rows = (ys_BDL[0] + ys_BDL[2].flip(-1)).unflatten(-1, (height, width))
    columns = (ys_BDL[1] + ys_BDL[3].flip(-1)).unflatten(-1, (width, height))
    return rows + columns.transpose(2, 3)


def scan_by_formula(m, k, u_BDL):
    sizes = [m.dt_rank, m.d_state, m.d_state]
    dt, B, C = torch.einsum("bdl,cd->bcl", u_BDL, m.x_proj_weight[k]).split(sizes, 1)
    if m.is_ssd:
        heads = u_BDL.transpose(1, 2).unflatten(-1, (m.dt_rank, -1))
        B, C = (x.transpose(1, 2).unsqueeze(2) for x in (B, C))
        dt = F.softplus(dt.transpose(1, 2) + m.dt_projs_bias[k])
        y = ssd(heads, dt, -m.A_logs[k].exp(), B, C, backend="reference") + heads * m.Ds[k]
        return y.flatten(2).transpose(1, 2)
    dt = F.softplus(torch.einsum("brl,dr->bdl", dt, m.dt_projs_weight[k]) + m.dt_projs_bias[k].unsqueeze(-1))
    A, D = -m.A_logs.reshape(4, m.d_inner, -1)[k].exp(), m.Ds.reshape(4, -1)[k]
    return selective_scan(u_BDL, dt, A, B, C, backend="reference") + D.unsqueeze(-1) * u_BDL


def by_formula(m, x_BHWD, *, is_gated, gate_act, out_act=False):
    x = m.in_proj(x_BHWD)
    if is_gated:
        x, z = x.chunk(2, -1)
    x = x.permute(0, 3, 1, 2)
    conv = m.conv2d[1] if isinstance(m.conv2d, nn.Sequential) else m.conv2d
    x = m.act(conv(x.contiguous()))
    ys = [scan_by_formula(m, k, u) for k, u in enumerate(four_sequences(x))]
    y = m.out_norm(one_grid(ys, *x.shape[2:]).permute(0, 2, 3, 1))
    y = F.gelu(y) if out_act else y
    if is_gated:
        y = y * (m.act(z) if gate_act else z)
    return m.out_proj(y)


@pytest.mark.parametrize(
    ("forward_type", "says"),
    [
        ("v0", {"is_gated": True, "gate_act": True}),
        ("v0seq", {"is_gated": True, "gate_act": True}),
        ("v2", {"is_gated": True, "gate_act": True}),
        ("v05_noz", {"is_gated": False, "gate_act": False}),
        ("v04_nozact_oact", {"is_gated": True, "gate_act": False, "out_act": True}),
        ("m0", {"is_gated": True, "gate_act": True}),
        ("m0_noz_no32", {"is_gated": False, "gate_act": False}),
    ],
)
@pytest.mark.parametrize("size", [(3, 5), (4, 1), (7, 7)])
def test_every_form_is_its_formula(forward_type, says, size):
    init = "v2" if forward_type.startswith("m0") else "v0"
    m = mixer(forward_type=forward_type, initialize=init, dt_rank=2, act_layer=nn.SiLU)
    x = grid(*size).requires_grad_()
    ours, formula = m(x), by_formula(m, x, **says)
    torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-12)
    wanted = [x, *m.parameters()]
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, formula)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (6, 6)])
def test_float32_follows_float64(height, width):
    m, x = mixer(16), grid(height, width, channels=16)
    y = m(x)
    torch.testing.assert_close(m.float()(x.float()), y.float(), rtol=1e-4, atol=2e-5 * y.abs().max().item())


def test_transposing_the_grid_exchanges_rows_and_columns():
    m, twin = mixer(), mixer()
    swap = torch.tensor([1, 0, 3, 2])
    state = m.state_dict()
    for name in SELECTIVE_NAMES:
        parts = state[name].unflatten(0, (4, -1)) if name in ("A_logs", "Ds") else state[name]
        state[name] = parts[swap].reshape(state[name].shape)
    state["conv2d.weight"] = state["conv2d.weight"].transpose(2, 3)
    twin.load_state_dict(state)
    x = grid()
    torch.testing.assert_close(twin(x.transpose(1, 2)).transpose(1, 2), m(x))


def test_channel_first_is_the_same_map():
    last, first = mixer(), mixer(channel_first=True)
    x = grid()
    torch.testing.assert_close(first(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), last(x))


def test_options():
    m = mixer(ssm_ratio=1.5, d_conv=1, bias=True, forward_type="v05_noz")
    assert (m.d_inner, m.dt_rank) == (9, 1)
    assert isinstance(m.conv2d, nn.Identity)
    assert m(grid()).shape == (2, 3, 5, 6)
    m = mixer(dropout=0.5)
    assert torch.equal(m(grid()), m(grid()))
    m.train()
    assert not torch.equal(m(grid()), m(grid()))


@pytest.mark.parametrize(
    ("forward_type", "names"),
    [
        ("v0", ["in_proj.weight", "conv2d.weight", "conv2d.bias", "out_norm.weight", "out_norm.bias"]),
        ("v05", ["out_norm.weight", "out_norm.bias", "in_proj.weight", "conv2d.weight", "conv2d.bias"]),
        ("m0", ["out_norm.weight", "out_norm.bias", "in_proj.weight", "conv2d.1.weight", "conv2d.1.bias"]),
    ],
)
def test_names_stand_in_the_published_order(forward_type, names):
    own = ["x_proj_weight", "Ds", "A_logs", "dt_projs_bias"] if forward_type == "m0" else SELECTIVE_NAMES
    module = SS2D(32, forward_type=forward_type, initialize="v2" if forward_type == "m0" else "v0")
    assert list(module.state_dict()) == [*own, *names, "out_proj.weight"]


def test_initial_values():
    torch.manual_seed(0)
    m = SS2D(64, d_state=4)
    steps = F.softplus(m.dt_projs_bias)
    assert 0.0009 < steps.min() < steps.max() < 0.101
    assert 0.9 * m.dt_rank**-0.5 < m.dt_projs_weight.abs().max() <= m.dt_rank**-0.5
    assert 0.9 * 128**-0.5 < m.x_proj_weight.abs().max() <= 128**-0.5
    torch.testing.assert_close(m.A_logs[500].exp(), torch.arange(1.0, 5.0))
    assert torch.equal(m.Ds, torch.ones(4 * 128))
    normal, uniform = SS2D(64, initialize="v1"), SS2D(64, initialize="v2")
    assert normal.A_logs.std().item() == pytest.approx(1, abs=0.05)
    assert normal.dt_projs_weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(uniform.A_logs, torch.zeros_like(uniform.A_logs))
    assert 0 <= uniform.dt_projs_bias.min() < uniform.dt_projs_bias.max() <= 0.1
    heads = SS2D(64, forward_type="m0", initialize="v2")
    assert [tuple(p.shape) for p in (heads.Ds, heads.A_logs, heads.dt_projs_bias)] == [(4, 4, 32), (4, 4), (4, 4)]
    with torch.device("meta"):
        assert all(p.is_meta for p in SS2D(16).parameters())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"forward_type": "v05_noz", "dt_rank": 2},
        {"forward_type": "m0", "initialize": "v2", "dt_rank": 2},
        {"forward_type": "v2_oact", "bias": True},
    ],
)
def test_symmetries(options):
    assert_symmetries_hold(mixer(4, d_state=2, **options), grid(channels=4))


def test_weight_decay_names_real_parameters():
    assert SS2D(16).no_weight_decay() <= {name for name, _ in SS2D(16).named_parameters()}


def test_half_precision():
    m, x = mixer(16, dtype=torch.bfloat16), grid(channels=16, dtype=torch.bfloat16)
    y = m(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), m.float()(x.float()), rtol=0.1, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert m(x.float()).isfinite().all()


def test_misfits_are_told():
    with pytest.raises(ShapeError, match=r"\[B, H, W, D\] with D = 6"):
        mixer()(torch.randn(2, 3, 6))
    with pytest.raises(ShapeError, match=r"\[B, D, H, W\]"):
        mixer(channel_first=True)(grid())
    for options, word in [
        ({"forward_type": "v06"}, "v06"),
        ({"forward_type": "v05_onnone"}, "onnone"),
        ({"forward_type": "v0_noz"}, "noz"),
        ({"forward_type": "m0"}, "v0"),
        ({"forward_type": "m0", "initialize": "v2", "dt_rank": 5}, "heads"),
        ({"forward_type": "v0", "initialize": "v1"}, "v1"),
        ({"initialize": "v3"}, "v3"),
        ({"d_conv": 4}, "d_conv=4"),
        ({"d_state": 0}, "below 1"),
    ]:
        with pytest.raises(ConfigError, match=word):
            SS2D(6, **options)
