"""Rounded states: against a NumPy loop, the gauge they are blind to, and the report part by part."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import BackendError, ConfigError, DataError
from madzoo.layers import S4D, Mamba, Mamba3
from madzoo.ops import selective_scan
from madzoo.quantization.scores import Metric
from madzoo.quantization.state import state_sensitivity
from madzoo.quantization.state_rounding import calibrate_states, round_states, round_symmetric


class Scan(nn.Module):
    """A bare selective scan of fixed coefficients, with C = 1; one output per step."""

    def __init__(self, states: int = 3) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.A_log, self.B = (
            nn.Parameter(torch.from_numpy(rng.random((2, states)))),
            torch.from_numpy(rng.random(states)),
        )

    def forward(self, u: Tensor) -> Tensor:
        B = self.B[None, :, None].expand(len(u), -1, u.shape[-1])
        return selective_scan(u, torch.ones_like(u), -self.A_log.exp(), B, torch.ones_like(B))


class Twice(nn.Module):
    """Two scans behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Scan(3), Scan(2)

    def forward(self, u: Tensor) -> Tensor:
        return self.second(5 * self.first(u))


def rounded(h: np.ndarray, reach: np.ndarray, bits: int) -> np.ndarray:
    highest = 2 ** (bits - 1) - 1
    return np.clip(np.round(h / reach * highest), -highest, highest) * reach / highest


@pytest.mark.parametrize("share", ["tensor", "channel"])
def test_each_step_has_its_own_scale(share: str) -> None:
    model, u = Scan(), torch.from_numpy(np.random.default_rng(1).normal(size=(2, 2, 7)))
    axes = (1, 2) if share == "tensor" else (2,)
    A, B = -np.exp(model.A_log.detach().numpy()), model.B.numpy()
    h, expected = np.zeros((2, 2, 3)), []
    for t in range(7):
        h = np.exp(A) * h + u.numpy()[..., t, None] * B
        h = rounded(h, np.abs(h).max(axes, keepdims=True), 4)
        expected.append(h.sum(-1))
    with torch.no_grad(), round_states(model, 4, share=share):
        found = model(u)
    np.testing.assert_allclose(found.numpy(), np.stack(expected, -1), rtol=0, atol=1e-12)


def test_fixed_scales_belong_to_their_scan() -> None:
    model, u = Twice(), torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 7)))
    with torch.no_grad():
        scales = calibrate_states(model, [(u, None)], share="state")
        assert [tuple(s.shape) for s in scales] == [(1, 2, 3), (1, 2, 2)] and scales[1].max() > 2 * scales[0].max()
        exact = model(u)
        errors = []
        for bits in (16, 8, 4):
            with round_states(model, bits, share="state", scales=scales):
                errors.append((model(u) - exact).abs().max().item())
                assert torch.equal(model(u), model(u))  # each forward pass counts its scans anew
        assert errors[0] < 1e-2 < errors[2] and errors[0] < errors[1] < errors[2]
        with round_states(model, 8, scales=scales[:1]), pytest.raises(ConfigError, match="more scans"):
            model(u)


def test_a_scale_per_state_is_blind_to_positive_factors_of_b_only() -> None:
    torch.manual_seed(0)
    z, u = 0.9 * torch.exp(1j * torch.rand(3, 4, dtype=torch.float64)), torch.randn(1, 3, 9, dtype=torch.float64)
    sizes = torch.rand(3, 4, dtype=torch.float64) + 0.5
    phases = torch.exp(1j * torch.rand(3, 4, dtype=torch.float64))

    def read(gauge: Tensor, share: str) -> Tensor:
        """Runs and rounds the recurrence in one basis; returns its states in another."""

        def run(keep: Callable[[Tensor], Tensor]) -> Tensor:
            states = [torch.zeros_like(z)]
            for t in range(9):
                states.append(keep(z * states[-1] + gauge * u[0, :, t, None]))
            return torch.stack(states)

        sizes = torch.view_as_real(run(lambda h: h)).abs().amax((0, -1))
        scale = sizes if share == "state" else sizes.amax(1, keepdim=True)
        return run(lambda h: round_symmetric(h, scale, 4)) / gauge

    one = torch.ones_like(z)
    torch.testing.assert_close(read(sizes * one, "state"), read(one, "state"))
    assert (read(sizes * one, "channel") - read(one, "channel")).abs().max() > 1e-2
    assert (read(phases, "state") - read(one, "state")).abs().max() > 1e-2


def test_the_gradient_passes_straight_through() -> None:
    h = torch.tensor([0.3, -0.8, 5.0], requires_grad=True)
    round_symmetric(h, torch.tensor(1.0), 2).sum().backward()
    assert h.grad is not None and h.grad.tolist() == [1.0, 1.0, 1.0]
    z = torch.tensor([0.3 - 0.8j, 0.0])
    assert round_symmetric(z, torch.tensor(1.0), 2).tolist() == [-1j, 0]
    assert not round_symmetric(torch.zeros(2), torch.tensor(0.0), 4).any()


class Reader(nn.Module):
    """The mean of a mixer's output, to two classes."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer, self.head = mixer, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixer(x).mean(1))


@pytest.mark.parametrize("mixer", [Mamba(8, d_state=4), S4D(8, d_state=4)])
def test_the_report_part_by_part(mixer: nn.Module) -> None:
    torch.manual_seed(0)
    model = Reader(mixer).double()
    before = {name: p.clone() for name, p in model.named_parameters()}
    x = torch.randn(6, 20, 8, dtype=torch.float64)
    targets = model(x).detach()
    metric = Metric(name="distance", higher_is_better=False, score=lambda y, t: (y - t).square().sum(-1))
    found = state_sensitivity(model, [(x[:4], targets[:4]), (x[4:], targets[4:])], bits=(8, 2), metric=metric)
    assert found.references[0] < 1e-30 and found.n == 6 and found.lengths == (None,)
    by = {(entry.part, entry.bits): entry for entry in found.entries}
    assert set(by) == {(part, bits) for part in ("state", "A", "dt") for bits in (8, 2)}
    with torch.no_grad(), round_states(model, 2):
        expected = (model(x) - targets).square().sum(-1).mean().item()
    assert by["state", 2].drop == pytest.approx(expected) and expected > 0
    drops = {key: entry.drop for key, entry in by.items() if entry.drop is not None}
    assert len(drops) == len(by) and drops["state", 8] < drops["state", 2] and drops["dt", 8] < drops["dt", 2]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_lengths_and_calibration() -> None:
    torch.manual_seed(0)
    model, x = Reader(Mamba(8, d_state=4)), torch.randn(8, 20, 8)
    batches = [(x, torch.randint(2, (8,)))]
    found = state_sensitivity(
        model, batches, bits=(8,), lengths=(20, 5), metric="top1", parts=("state",), calibration=batches
    )
    assert [entry.length for entry in found.entries] == [20, 5] and found.calibrated
    with torch.no_grad():
        assert found.references[1] == (model(x[:, :5]).argmax(-1) == batches[0][1]).double().mean().item()
    with pytest.raises(DataError, match="shorter"):
        state_sensitivity(model, batches, lengths=(21,), metric="top1")


def test_what_is_refused() -> None:
    model, batches = Reader(Mamba(8, d_state=4)), [(torch.randn(2, 5, 8), torch.zeros(2))]
    with pytest.raises(ConfigError, match="no part"):
        state_sensitivity(model, batches, metric="top1", parts=("C",))
    with pytest.raises(ConfigError, match="no parameter"):
        state_sensitivity(nn.Linear(8, 2), batches, metric="top1", parts=("A",))
    with pytest.raises(BackendError, match="trapezoidal"):
        state_sensitivity(Reader(Mamba3(8, headdim=8, d_state=8)), batches, metric="top1", parts=("state",))
    with pytest.raises(DataError, match="no scan"):
        calibrate_states(nn.Linear(8, 2), batches)
    for asked in ({"share": "row"}, {"bits": 1}, {"share": "state"}):
        with pytest.raises(ConfigError), round_states(model, **{"bits": 4, **asked}):
            model(batches[0][0])


def test_a_model_without_scans_has_no_state_to_round() -> None:
    model, x = nn.Linear(4, 3), torch.randn(6, 4)
    with pytest.raises(DataError, match="no scan ran"), round_states(model, 4):
        model(x)
    with pytest.raises(DataError, match="no scan ran"):
        state_sensitivity(model, [(x, torch.arange(6) % 3)], metric="top1", parts=("state",), bits=(4,))
