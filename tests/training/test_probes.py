"""Probes of a run: numbers by hand on quadratics, motion in and out of the row space, and a run left as it was."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.errors import ConfigError, DataError
from madzoo.geometry import gradient_noise_scale, local_dimension
from madzoo.layers import S4D
from madzoo.training.loop import make_accelerator, train
from madzoo.training.probes import LandscapeProbe, ProbeSettings
from madzoo.training.probes_motion import flat_parameters, row_space, split_motion
from madzoo.training.probes_path import linear_path
from madzoo.training.recipe import Recipe


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(-1).mean()


def quadratic() -> tuple[nn.Linear, tuple[Tensor, Tensor]]:
    """One weight row w [3] on four samples; the Hessian is diag(4, 1, 0.25), since x^T x / n is."""
    model = nn.Linear(3, 1, bias=False)
    x = torch.zeros(4, 3)
    x[0, 0], x[1, 1], x[2, 2] = 4.0, 2.0, 1.0
    return model, (x, torch.ones(4, 1))


def test_a_look_on_a_quadratic_by_hand() -> None:
    model, batch = quadratic()
    probe = LandscapeProbe(
        model, batch, half_square, lr=lambda step: 0.1 * step,
        settings=ProbeSettings(every=2, microbatches=4, motion_samples=1, dtype="float64", tolerance=1e-9),
    )  # fmt: skip
    for step in (1, 2, 3, 4):
        probe(step, 7.0)
    first, second = probe.records
    assert (first.step, second.step, first.train_loss) == (2, 4, 7.0)
    assert first.lambda_max == pytest.approx(4) and first.residual < 1e-8 and first.converged
    assert (first.edge_ratio, second.edge_ratio) == (pytest.approx(4 * 0.2 / 2), pytest.approx(4 * 0.4 / 2))
    assert first.loss == pytest.approx(half_square(model(batch[0]), batch[1]).item())
    expected = gradient_noise_scale(model, batch, half_square)
    assert (first.noise_scale, first.gradient_variance) == (expected.value, expected.gradient_variance)
    assert first.motion is None and second.motion is not None and second.motion.length == 0
    assert second.motion.share_inside is None
    assert json.loads(json.dumps(second.to_dict()))["motion"]["num_params"] == 3


def test_motion_on_a_quadratic_by_hand() -> None:
    """The first sample sees the first weight alone."""
    model, batch = quadratic()
    settings = ProbeSettings(every=1, microbatches=0, motion_samples=1)
    probe = LandscapeProbe(model, batch, half_square, lr=0.1, settings=settings)
    probe(1, 0.0)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[3.0, 4.0, 0.0]]))
    probe(2, 0.0)
    found = probe.records[1].motion
    assert found is not None and probe.records[1].noise_scale is None
    assert (found.length, found.inside, found.outside) == pytest.approx((5, 3, 4), rel=1e-6)
    assert (found.rank, found.num_params) == (1, 3)


def test_the_row_space_is_that_of_the_jacobian_and_gradients_lie_in_it() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)), torch.randn(5, 4)
    basis = row_space(model, x)
    assert basis.shape == (51, local_dimension(model, x).rank) and basis.dtype == torch.float64
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    before = flat_parameters(model)
    for _ in range(1):
        half_square(model(x), torch.ones(5, 3)).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(1e-2 * p.grad)  # pyright: ignore[reportOperatorIssue]
    step = split_motion(basis, flat_parameters(model) - before)
    assert step.length > 1e-3 and step.outside < 1e-5 * step.length
    random = split_motion(basis, torch.randn(51, dtype=torch.float64))
    assert 0.1 < (random.share_inside or 0) < 0.55 and random.length**2 == pytest.approx(
        random.inside**2 + random.outside**2
    )


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="too many answers"):
        row_space(nn.Linear(2, 600), torch.ones(1, 2))
    assert row_space(nn.Linear(2, 600), torch.ones(1, 2), output=lambda y: y[:, :2]).shape == (1800, 2)


def test_refusals() -> None:
    model, batch = quadratic()
    for wrong in (
        lambda: ProbeSettings(every=0),
        lambda: ProbeSettings(microbatches=1),
        lambda: ProbeSettings(dtype="float16"),
        lambda: ProbeSettings(max_products=0),
        lambda: LandscapeProbe(model, batch, half_square, lr=0.1, settings=ProbeSettings(microbatches=3)),
        lambda: LandscapeProbe(
            model, batch, half_square, lr=0.1, settings=ProbeSettings(microbatches=0, motion_samples=5)
        ),
    ):
        with pytest.raises(ConfigError):
            wrong()


class Steps:
    """Random batches of sequences, by step."""

    steps_per_epoch = 6

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(4, 9, 3, generator=generator), torch.randn(4, 3, generator=generator)


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.drop = S4D(3, d_state=4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.mixer(x)[:, -1])


def run(folder: Path, *, probed: bool) -> tuple[str, list[int]]:
    torch.manual_seed(0)
    model = Last()
    recipe = Recipe(
        name="tiny.run", dataset="random", epochs=2, batch_size=4, lr=1e-2, warmup_steps=2, weight_decay=0.0,
        clip_norm=0.0, ema_decay=0.0, loss="mse", save_every=12, log_every=3, workers=0, select="last",
    )  # fmt: skip
    probe = LandscapeProbe(
        model, Steps()[99], half_square, lr=1e-2, settings=ProbeSettings(every=4, microbatches=2, motion_samples=2)
    )
    train(
        model, Steps(), half_square, lambda m: {"score": 0.0}, recipe, folder,
        accelerator=make_accelerator(), on_step=probe if probed else None,
    )  # fmt: skip
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    return digest, [record.step for record in probe.records]


def test_a_probed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", probed=False)
    probed, steps = run(tmp_path / "probed", probed=True)
    assert plain == probed and steps == [4, 8, 12]


class Product(nn.Module):
    """Answers a b, whatever is asked."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.ab = nn.Parameter(torch.tensor([float(a), float(b)]))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.ab.prod()


def test_two_branches_of_a_valley_are_not_linearly_connected_and_one_is_not_convex_either() -> None:
    batch = (torch.ones(1, 1), torch.ones(1, 1))
    model, ends = (
        Product(0, 0),
        [Product(1, 1).state_dict(), Product(-1, -1).state_dict(), Product(4, 0.25).state_dict()],
    )
    across = linear_path(model, ends[0], ends[1], batch, half_square, points=5)
    assert across.losses == pytest.approx([0, 0.5 * 0.75**2, 0.5, 0.5 * 0.75**2, 0])  # a = b = 1 - 2 t
    assert across.barrier == pytest.approx(0.5) and across.length == pytest.approx(8**0.5)
    along = linear_path(model, ends[0], ends[2], batch, half_square, points=3)
    assert along.barrier == pytest.approx(0.5 * (2.5 * 0.625 - 1) ** 2)
    same = linear_path(model, ends[0], ends[0], batch, half_square)
    assert same.barrier == 0 and same.length == 0 and len(same.losses) == 11
    assert model.ab.tolist() == [0, 0]


def test_a_path_between_what_does_not_fit_or_is_not_finite() -> None:
    batch = (torch.ones(1, 1), torch.ones(1, 1))
    state = Product(1, 1).state_dict()
    with pytest.raises(ConfigError, match="same entries"):
        linear_path(Product(0, 0), state, {"ab": state["ab"]}, batch, half_square)
    with pytest.raises(ConfigError, match="3 points"):
        linear_path(Product(0, 0), state, state, batch, half_square, points=2)
    with pytest.raises(DataError, match="not finite"):
        linear_path(Product(0, 0), state, Product(float("inf"), 1).state_dict(), batch, half_square)


def test_probes_see_the_edge_of_stability() -> None:
    """On (a b - 1)^2 / 2 with one sample: GD from above 2 / lr ends below it, and the probe's ratio says so."""
    model = Product(4, 0.251)
    batch = (torch.ones(2, 1), torch.ones(2, 1))
    settings = ProbeSettings(every=100, microbatches=0, motion_samples=0, dtype="float64")
    probe = LandscapeProbe(model, batch, half_square, lr=0.2, settings=settings)
    probe.look(0, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(1, 301):
        optimizer.zero_grad()
        loss = half_square(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        probe(step, loss.item())
    assert probe.records[0].edge_ratio == pytest.approx(1.607, abs=1e-3)
    assert probe.records[-1].edge_ratio < 1 and F.mse_loss(model(batch[0]), batch[1]) < 1e-9
