"""Trajectories in valleys: against torch's optimizers, against theory, and what is recorded when a path diverges."""

import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, MadzooError
from madzoo.landscape import (
    ALGORITHMS,
    Algorithm,
    DiagonalSSM,
    Noise,
    ScalarProduct,
    draw_least_squares,
    draw_linear_network,
    fit_own_answers,
    predicted_rate,
    predicted_steps,
    run_trajectories,
    slide,
)
from madzoo.landscape.algorithms import draw_noise

PRODUCT = ScalarProduct()
START = torch.tensor([4.0, 0.251], dtype=torch.float64)


def test_gd_cannot_rest_above_two_over_lr() -> None:
    """From a sharpness of 16.06: at lr 0.1 the limit is 20, at 0.2 it is 10, at 0.3 it is 6.7."""
    found = run_trajectories(PRODUCT, START, [0.1, 0.2, 0.3], seeds=[0], steps=300, record_every=50)
    assert PRODUCT.sharpness(START).item() == pytest.approx(16.07, abs=0.01)
    stays, catapults, _ = found.sharpness[-1, :, 0].tolist()
    assert stays == pytest.approx(16.06, abs=0.01) and stays < 20
    assert catapults < 10 and found.loss[-1, 1, 0] < 1e-20
    assert found.diverged.flatten().tolist() == [False, False, True]
    assert found.diverged_at[2, 0] < 20
    for name in ("loss", "sharpness", "distance", "drift", "conserved", "last"):  # the path that diverged stands still
        assert getattr(found, name).isfinite().all()
    assert (found.loss[1:, 2] == found.loss[1, 2]).all() and found.loss[1, 2, 0] > 1e4


def test_gd_with_small_steps_keeps_what_flow_conserves() -> None:
    """From (4, 1), where a b - 1 = 3: to t = 10, at a step of 1e-4, as a plain loop of floats also says."""
    start = torch.tensor([4.0, 1.0], dtype=torch.float64)
    found = run_trajectories(PRODUCT, start, [1e-4], seeds=[0], steps=100_000, record_every=20_000)
    assert found.loss[0, 0, 0] == pytest.approx(4.5) and found.loss[-1, 0, 0] < 1e-20
    assert 1e-6 < found.conserved_drift.max() <= 1e-4
    a, b = 4.0, 1.0
    for _ in range(100_000):
        u = 1e-4 * (a * b - 1)
        a, b = a - u * b, b - u * a
    assert found.last[0, 0].tolist() == pytest.approx([a, b], rel=1e-12)


@pytest.mark.parametrize("lr", [0.02, 0.05])
@pytest.mark.parametrize("sigma", [0.2, 0.3, 0.5, 0.7])
def test_label_noise_slides_at_the_predicted_rate(lr: float, sigma: float) -> None:
    start = (4.0, 0.25)
    steps = predicted_steps(start, lr=lr, sigma=sigma, log_decay=math.log(2))
    found = slide(start, lr=lr, sigma=sigma, steps=steps, paths=400, seed=0)
    assert found.diverged == found.crossed == 0 and found.log_decay is not None and found.stderr is not None
    leading = lr**2 * sigma**2 * steps
    line = f"lr {lr} sigma {sigma}: {found.log_decay / steps:.3e} a step, predicted {math.log(2) / steps:.3e}"
    sys.stdout.write(f"{line}, leading order {lr**2 * sigma**2:.3e} ({leading / found.log_decay - 1:+.1%})\n")
    assert found.stderr < 0.01 and found.log_decay == pytest.approx(math.log(2), rel=0.05)
    assert abs(leading / found.log_decay - 1) > 0.05  # the leading order alone would not have passed


@pytest.mark.parametrize("lr", [0.02, 0.05])
def test_label_noise_ends_at_the_flattest_point(lr: float) -> None:
    sigma = 1.0
    found = slide((4.0, 0.25), lr=lr, sigma=sigma, steps=math.ceil(5 / (lr * sigma) ** 2), paths=400, seed=1)
    assert found.diverged == 0 and found.squares == pytest.approx(2, abs=0.1)


def test_the_predicted_steps_solve_the_differential_equation() -> None:
    lr, sigma, C, taken = 0.05, 0.5, 4.0**2 - 0.25**2, 0
    while C > (4.0**2 - 0.25**2) / 2:
        C *= 1 - float(predicted_rate(np.array(C), lr=lr, sigma=sigma))
        taken += 1
    assert taken == pytest.approx(predicted_steps((4.0, 0.25), lr=lr, sigma=sigma, log_decay=math.log(2)), abs=2)
    with pytest.raises(ConfigError, match="below 2"):
        predicted_rate(np.array(40.0), lr=0.05, sigma=0.1)


def test_trajectories_and_the_special_simulation_agree() -> None:
    start, lr, sigma, steps = (4.0, 0.25), 0.05, 1.0, 200
    found = run_trajectories(
        PRODUCT, torch.tensor(start).double(), [lr], seeds=range(400), steps=steps, record_every=steps,
        noise=Noise(kind="label", scale=sigma),
    )  # fmt: skip
    decay = -(found.conserved[-1] / found.conserved[0]).log().squeeze()
    other = slide(start, lr=lr, sigma=sigma, steps=steps, paths=400, seed=5)
    assert other.log_decay is not None and other.stderr is not None
    assert abs(decay.mean().item() - other.log_decay) < 5 * other.stderr


@pytest.mark.parametrize("name", ["gd", "momentum", "adam", "adamw"])
def test_against_torch(name: str) -> None:
    f = DiagonalSSM(rates=(0.1, 0.7), weights=(1.0, -0.5), length=12)
    start, decay = f.valley_point(1.5) + 0.1, 0.1 if name == "adamw" else 0.0
    rules = {
        "gd": torch.optim.SGD,
        "momentum": partial(torch.optim.SGD, momentum=0.9),
        "adam": partial(torch.optim.Adam, betas=(0.9, 0.999)),
        "adamw": partial(torch.optim.AdamW, betas=(0.9, 0.999), weight_decay=decay),
    }
    found = run_trajectories(
        f,
        start,
        [0.003, 0.01],
        seeds=[0],
        steps=40,
        record_every=40,
        algorithm=Algorithm(name=name, weight_decay=decay),
    )
    for i, lr in enumerate((0.003, 0.01)):
        theta = start.clone().requires_grad_()
        optimizer = rules[name]([theta], lr=lr)
        for _ in range(40):
            optimizer.zero_grad()
            f.loss(theta).backward()
            optimizer.step()
        torch.testing.assert_close(found.last[i, 0], theta.detach(), rtol=1e-11, atol=1e-12)


def test_sam_by_hand_and_where_it_goes() -> None:
    start = torch.tensor([2.0, 1.0], dtype=torch.float64)
    one = run_trajectories(
        PRODUCT, start, [0.1], seeds=[0], steps=1, record_every=1, algorithm=Algorithm(name="sam", rho=0.5)
    )
    g = torch.tensor([1.0, 2.0], dtype=torch.float64)  # (a b - 1) (b, a)
    a, b = (start + 0.5 * g / math.sqrt(5)).tolist()
    expected = start - 0.1 * (a * b - 1) * torch.tensor([b, a], dtype=torch.float64)
    torch.testing.assert_close(one.last[0, 0], expected)
    plain, sam = (
        run_trajectories(PRODUCT, START, [0.05], seeds=[0], steps=3000, record_every=3000, algorithm=algorithm)
        for algorithm in (Algorithm(), Algorithm(name="sam", rho=0.1))
    )
    assert sam.sharpness[-1] < 5 < 16 < plain.sharpness[-1]


@pytest.mark.parametrize("kind", ["label", "minibatch", "isotropic"])
def test_a_seed_has_its_own_path_whatever_stands_beside_it(kind: str) -> None:
    f = draw_least_squares(4, 9, seed=0)
    noise = Noise(kind=kind, scale=0.0 if kind == "minibatch" else 0.1, batch=2 if kind == "minibatch" else 0)
    run = partial(run_trajectories, f, f.valley_point() + 0.1, steps=30, record_every=30, noise=noise)
    together, alone = run([0.1, 0.3], seeds=[3, 8, 5]), run([0.3], seeds=[8])
    torch.testing.assert_close(together.last[1, 1], alone.last[0, 0], rtol=1e-12, atol=1e-14)
    assert (together.last[1, 0] != together.last[1, 1]).any()
    assert torch.equal(run([0.3], seeds=[8]).last, alone.last)


def test_on_least_squares_only_isotropic_noise_moves_along_the_valley() -> None:
    f = draw_least_squares(4, 9, seed=0)
    noises = [
        Noise(),
        Noise(kind="label", scale=0.1),
        Noise(kind="minibatch", batch=2),
        Noise(kind="isotropic", scale=0.1),
    ]
    drifts = []
    for noise in noises:
        found = run_trajectories(
            f, f.valley_point() + 0.1, [0.3], seeds=[0, 1], steps=100, record_every=50, noise=noise
        )
        assert (found.sharpness - 1).abs().max() < 1e-12
        drifts.append((found.drift[-1].max().item(), found.conserved_drift[-1].max().item()))
    assert max(max(pair) for pair in drifts[:3]) < 1e-13 and min(drifts[3]) > 0.05


def test_minibatch_gradients_are_unbiased_and_hold_each_row_equally() -> None:
    drawn = draw_noise(Noise(kind="minibatch", batch=3), [0, 1], rows=5, columns=2)
    weights = torch.stack([w for _, w in zip(range(2000), drawn, strict=False) if isinstance(w, Tensor)])
    assert ((weights > 0).sum(-1) == 3).all() and set(weights.unique().tolist()) == {0.0, 5 / 3}
    assert (weights.mean(0) - 1).abs().max() < 0.1


def test_gd_on_matrices_slides_where_steps_are_large() -> None:
    """Above 2 / lr GD leaves, and comes to rest below; below it keeps its balance."""
    f = draw_linear_network((3, 4, 2), seed=0)
    start = f.valley_point(3.0) + 1e-3
    limit = 2 / f.sharpness(start).item()
    found = run_trajectories(f, start, [0.5 * limit, 1.2 * limit], seeds=[0], steps=1500, record_every=1500)
    before, (calm, moved) = found.sharpness[0, 0, 0].item(), found.sharpness[-1, :, 0].tolist()
    assert calm == pytest.approx(before, rel=1e-2) and moved < 2 / (1.2 * limit) < before
    assert found.loss[-1].max() < 1e-6 and not found.diverged.any()


def test_divergence_at_once_in_the_middle_and_under_every_algorithm() -> None:
    for name in ALGORITHMS:
        found = run_trajectories(
            PRODUCT, START, [1e-3, 1e9], seeds=[0, 1], steps=60, record_every=7, algorithm=Algorithm(name=name)
        )
        assert found.diverged.tolist() == [[False, False], [True, True]]
        assert found.steps.tolist() == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]
        assert all(getattr(found, key).isfinite().all() for key in ("loss", "sharpness", "distance", "last"))


def test_on_a_module_against_its_own_gradients() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(4, 2)
    f = fit_own_answers(net, inputs)
    start = f.point + 0.02
    found = run_trajectories(f, start, [0.05, 0.1], seeds=[0], steps=20, record_every=20)
    targets = net(inputs.double()).detach()
    for i, lr in enumerate((0.05, 0.1)):
        nn.utils.vector_to_parameters(start.clone(), net.parameters())
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        for _ in range(20):
            optimizer.zero_grad()
            (0.5 * (net(inputs.double()) - targets).square().sum(-1).mean()).backward()
            optimizer.step()
        reached = nn.utils.parameters_to_vector(net.parameters()).detach()
        torch.testing.assert_close(found.last[i, 0], reached, rtol=1e-10, atol=1e-12)
    assert (found.distance[1] < found.distance[0]).all() and found.drift[1].max() < 0.05


def test_refusals() -> None:
    for wrong in (
        lambda: Algorithm(name="newton"),
        lambda: Algorithm(momentum=1.0),
        lambda: Algorithm(rho=-1.0),
        lambda: Noise(kind="label"),
        lambda: Noise(kind="minibatch", scale=0.1),
        lambda: Noise(scale=0.1),
        lambda: run_trajectories(PRODUCT, START, [], seeds=[0], steps=1, record_every=1),
        lambda: run_trajectories(PRODUCT, START, [-0.1], seeds=[0], steps=1, record_every=1),
        lambda: run_trajectories(PRODUCT, START[:1], [0.1], seeds=[0], steps=1, record_every=1),
        lambda: slide((0.25, 4.0), lr=0.1, sigma=0.1, steps=1, paths=2, seed=0),
        lambda: run_trajectories(
            PRODUCT, START, [0.1], seeds=[0], steps=1, record_every=1, noise=Noise(kind="minibatch", batch=2)
        ),
    ):
        with pytest.raises(MadzooError):
            wrong()
