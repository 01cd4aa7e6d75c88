"""LinOSS: the published layer written out, stepping, symmetries."""

import pytest
import torch
from symmetry_check import assert_symmetries_hold

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.linoss import LinOSS


def build(discretization="IM", d_model=5, d_state=7):
    torch.manual_seed(0)
    return LinOSS(d_model, d_state=d_state, discretization=discretization).double()


def published(layer, u_LD):
    """One sequence, in complex numbers, as the authors' code has it."""
    A, dt = layer.A_diag.relu(), layer.steps.sigmoid()
    B, C = torch.view_as_complex(layer.B), torch.view_as_complex(layer.C)
    z = x = torch.zeros(len(A), dtype=B.dtype)
    outputs = []
    for u in u_LD:
        force = B @ u.to(B.dtype)
        if layer.discretization == "IM":
            share = 1 / (1 + dt**2 * A)
            z, x = share * (z - dt * A * x + dt * force), share * (dt * z + x + dt**2 * force)
        else:
            z = z - dt * A * x + dt * force
            x = x + dt * z
        outputs.append((C @ x).real + layer.D * u)
    return torch.stack(outputs)


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
def test_published_layer(discretization):
    layer = build(discretization)
    u = torch.randn(2, 33, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(u), torch.stack([published(layer, one) for one in u]), rtol=1e-10, atol=1e-10)
    mirrored = torch.stack([published(layer, one.flip(0)).flip(0) for one in u])
    torch.testing.assert_close(layer(u, reverse=True), mirrored, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
def test_step_equals_forward_on_every_prefix(discretization):
    layer = build(discretization)
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    state, outputs = layer.init_state(2), []
    for t in range(12):
        y_t, state = layer.step(x[:, t], state)
        outputs.append(y_t)
        torch.testing.assert_close(torch.stack(outputs, dim=1), layer(x[:, : t + 1]), rtol=1e-10, atol=1e-10)


def test_published_parameters():
    layer = build(d_model=5, d_state=7)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"A_diag": (7,), "B": (7, 5, 2), "C": (5, 7, 2), "D": (5,), "steps": (7,)}
    assert layer.no_weight_decay() <= shapes.keys()


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
def test_symmetries(discretization):
    assert_symmetries_hold(build(discretization, d_model=2, d_state=3), torch.randn(2, 9, 2, dtype=torch.float64))


def test_every_parameter_learns():
    layer = build()
    layer(torch.randn(2, 9, 5, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().min() > 0 for p in layer.parameters())


def test_errors():
    for bad in ({"d_model": 0}, {"d_state": 0}, {"discretization": "EX"}):
        with pytest.raises(ConfigError):
            build(**bad)
    with pytest.raises(ShapeError, match="LinOSS"):
        build()(torch.zeros(2, 9, 4, dtype=torch.float64))
    with pytest.raises(ShapeError, match="LinOSS"):
        build().step(torch.zeros(2, 9, 5, dtype=torch.float64), build().init_state(2))
