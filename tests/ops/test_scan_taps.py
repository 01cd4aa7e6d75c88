"""Taps on scans: what they see, that looking changes nothing, and that rounding is what a NumPy loop says."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import BackendError
from madzoo.layers import S4D, S5, LinOSS, LongConv, Mamba, Mamba2, Mamba3
from madzoo.models.image.weft import ScanDirection, WeftConfig
from madzoo.ops import delta_rule, diagonal_scan, linear_scan, selective_scan, ssd
from madzoo.ops.scan_taps import current_taps, tap_scans

LENGTH, WIDTH = 21, 12


def identity(x: Tensor) -> Tensor:
    return x * 1.0


def coarse(h: Tensor) -> Tensor:
    if h.is_complex():
        return torch.complex(coarse(h.real), coarse(h.imag))
    return (h * 8).round() / 8


def weft(reverse: bool) -> nn.Module:
    return ScanDirection(WIDTH, WeftConfig(embed_dim=WIDTH, d_state=4), reverse=reverse)


LAYERS = {
    "mamba": lambda: Mamba(WIDTH, d_state=4),
    "mamba2": lambda: Mamba2(WIDTH, d_state=8, headdim=4, expand=1),
    "s4d": lambda: S4D(WIDTH, d_state=8),
    "s5": lambda: S5(WIDTH, d_state=8, blocks=2, bidirectional=True),
    "weft": lambda: weft(False),
    "weft_reverse": lambda: weft(True),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("taps", [("inputs",), ("state",), ("factor",), ("inputs", "factor", "state")])
def test_looking_changes_nothing(name: str, taps: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name]().double().eval(), torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    functions = {"inputs": lambda name, tensor: identity(tensor), "factor": identity, "state": identity}
    with torch.no_grad():
        expected = layer(x)
        with tap_scans(**{tap: functions[tap] for tap in taps}):  # pyright: ignore[reportArgumentType]
            found = layer(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_every_step_of_every_scan_is_seen(name: str) -> None:
    torch.manual_seed(0)
    layer, x, seen, begun = LAYERS[name]().eval(), torch.randn(2, LENGTH, WIDTH), [], []
    names: list[str] = []

    def look(name: str, tensor: Tensor) -> Tensor:
        names.append(name)
        return tensor

    def remember(h: Tensor) -> Tensor:
        seen.append(h.shape)
        return h

    with torch.no_grad(), tap_scans(inputs=look, state=remember, begin=lambda: begun.append(1)):
        layer(x)
    scans = 2 if name == "s5" else 1
    assert len(begun) == scans and len(seen) == scans * LENGTH and seen[0][0] == 2
    read = {"s5": ["b", "b"], "s4d": ["u"]}.get(name, ["u", "delta", "B", "C"])
    assert names == read


@pytest.mark.parametrize("reverse", [False, True])
def test_rounding_the_selective_scan_is_the_loop_of_numpy(reverse: bool) -> None:
    rng = np.random.default_rng(0)
    u, delta, z = rng.normal(size=(3, 2, 3, 9))
    A, B, C, D, bias = -rng.random((3, 4)), rng.normal(size=(2, 4, 9)), rng.normal(size=(2, 4, 9)), *rng.random((2, 3))
    dt = np.log1p(np.exp(delta + bias[:, None]))
    u8, dt8, B8, C8 = (np.round(v * 8) / 8 for v in (u, dt, B, C))
    h, expected = np.zeros((2, 3, 4)), np.zeros((2, 3, 9))
    for t in range(9)[::-1] if reverse else range(9):
        h = np.round(np.exp(dt8[..., t, None] * A) * 8) / 8 * h + (dt8 * u8)[..., t, None] * B8[:, None, :, t]
        h = np.round(h * 8) / 8
        expected[..., t] = (h * C8[:, None, :, t]).sum(-1) + D * u8[..., t]
    expected = expected * z / (1 + np.exp(-z))
    tensors = [torch.from_numpy(v) for v in (u, delta, A, B, C, D, z, bias)]
    with tap_scans(inputs=lambda name, x: coarse(x), factor=coarse, state=coarse):
        found = selective_scan(*tensors, delta_softplus=True, reverse=reverse)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_rounding_ssd_is_the_loop_of_numpy(reverse: bool) -> None:
    rng = np.random.default_rng(1)
    x, dt, A = rng.normal(size=(2, 9, 4, 3)), rng.random((2, 9, 4)), -rng.random(4)
    B, C = rng.normal(size=(2, 2, 9, 2, 5))
    h, expected = rng.normal(size=(2, 4, 3, 5)), np.zeros((2, 9, 4, 3))
    start, (x8, dt8, B8, C8) = h.copy(), (np.round(v * 8) / 8 for v in (x, dt, B, C))
    for t in range(9)[::-1] if reverse else range(9):
        heads_B, heads_C = (np.repeat(v[:, t], 2, axis=1)[:, :, None] for v in (B8, C8))  # [B, H, 1, N]
        decay = np.round(np.exp(dt8[:, t] * A) * 8)[..., None, None] / 8
        h = np.round((decay * h + (x8[:, t] * dt8[:, t, :, None])[..., None] * heads_B) * 8) / 8
        expected[:, t] = (h * heads_C).sum(-1)
    x_t, dt_t, A_t, B_t, C_t = (torch.from_numpy(v) for v in (x, dt, A, B, C))
    with tap_scans(inputs=lambda name, tensor: coarse(tensor), factor=coarse, state=coarse):
        found, last = ssd(
            x_t, dt_t, A_t, B_t, C_t, initial_state=torch.from_numpy(start), return_last_state=True, reverse=reverse
        )
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last.numpy(), h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_rounding_diagonal_and_linear_scans_is_the_loop_of_numpy(reverse: bool) -> None:
    rng = np.random.default_rng(2)
    u, z = rng.normal(size=(2, 3, 9)), 0.9 * np.exp(1j * rng.random((3, 4)))
    v, start = rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4)), rng.normal(size=(2, 3, 4)) + 0j

    def rounded(values: Any) -> Any:
        return (np.round(values.real * 8) + 1j * np.round(values.imag * 8)) / 8

    states = []
    for first in (0 * start, start):
        h, found = first, np.zeros((2, 3, 4, 9), dtype=complex)
        for t in range(9)[::-1] if reverse else range(9):
            h = rounded(rounded(z) * h + rounded(u + 0j)[..., t, None])
            found[..., t] = h
        states.append(found)
    u_t, v_t, z_t, start_t = (torch.from_numpy(values) for values in (u, v, z, start))
    with tap_scans(inputs=lambda name, x: coarse(x), factor=coarse, state=coarse):
        y = diagonal_scan(u_t, v_t, z_t.log(), reverse=reverse)
        h = linear_scan(z_t[..., None], u_t[:, :, None].expand(2, 3, 4, 9) + 0j, initial=start_t, reverse=reverse)
    np.testing.assert_allclose(y.numpy(), 2 * (v[:, :, None] * states[0]).sum(2).real, rtol=0, atol=1e-12)
    np.testing.assert_allclose(h.numpy(), states[1], rtol=0, atol=1e-12)


def test_the_diagonal_state_is_the_published_one_without_b() -> None:
    torch.manual_seed(0)
    kernel, u = S4D(3, d_state=4).double().kernel, torch.randn(1, 3, 5, dtype=torch.float64)
    A_bar, B_bar, _ = (x.detach() for x in kernel.recurrence())
    published, states = torch.zeros_like(A_bar), []
    with torch.no_grad(), tap_scans(state=lambda h: states.append(h) or h):
        kernel.convolve(u)
    for t, h in enumerate(states):
        published = A_bar * published + B_bar * u[0, :, t, None]
        torch.testing.assert_close(B_bar * h[0], published)


def test_gradients_pass_through_a_tapped_loop() -> None:
    torch.manual_seed(0)
    layer, x = Mamba(6, d_state=3).double(), torch.randn(1, 7, 6, dtype=torch.float64)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    with tap_scans(state=identity):
        found = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    torch.testing.assert_close(found, expected)


def test_contexts_nest_and_end() -> None:
    a, b = torch.full((3,), 0.5), torch.ones(3)
    with tap_scans(state=torch.zeros_like):
        with tap_scans(state=torch.floor):
            assert linear_scan(a, b).tolist() == [1.0, 1.0, 1.0]
        assert linear_scan(a, b).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(RuntimeError, match="stop"), tap_scans(state=identity):
        raise RuntimeError("stop")
    assert current_taps() is None and linear_scan(a, b).tolist() == [1.0, 1.5, 1.75]


def test_a_convolution_does_not_tap_twice() -> None:
    u, z = torch.randn(1, 3, 30), torch.full((3, 2), 0.5 + 0.1j)
    with tap_scans(inputs=lambda name, x: 2 * x):
        found = diagonal_scan(u, torch.ones_like(z), z.log(), backend="fft")
    torch.testing.assert_close(found, diagonal_scan(2 * u, torch.ones_like(z), z.log(), backend="reference"))


@pytest.mark.parametrize(
    ("layer", "operator"),
    [(Mamba3, "trapezoidal_ssd"), (LinOSS, "oscillator_scan"), (LongConv, "long_conv")],
)
def test_what_cannot_be_tapped_says_so(layer: type[nn.Module], operator: str) -> None:
    sizes = {Mamba3: {"headdim": 8, "d_state": 8}, LinOSS: {"d_state": 4}, LongConv: {"kernel_size": 16}}[layer]
    model = layer(16, **sizes)  # pyright: ignore[reportCallIssue]
    with tap_scans(state=identity), pytest.raises(BackendError, match=operator):
        model(torch.randn(1, 16, 16))


def test_the_delta_rule_cannot_be_tapped() -> None:
    x = torch.randn(1, 5, 2, 4)
    with tap_scans(inputs=lambda name, tensor: tensor), pytest.raises(BackendError, match="delta_rule"):
        delta_rule(x, x, x, x[..., 0].sigmoid())


def test_a_compiler_can_ask_for_taps() -> None:
    layer, x = Mamba2(8, d_state=8, headdim=4, expand=1).eval(), torch.randn(1, 9, 8)
    program = torch.export.export(layer, (x,), strict=True)
    torch.testing.assert_close(program.module()(x), layer(x))
