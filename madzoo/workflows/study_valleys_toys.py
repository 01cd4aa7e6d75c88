"""Runs the algorithms on objectives whose valleys are known, and keeps plain numbers: theory beside measurement."""

import math
from typing import Any

import torch

from madzoo.landscape import (
    Algorithm,
    DiagonalSSM,
    Noise,
    Objective,
    ScalarProduct,
    draw_least_squares,
    draw_linear_network,
    draw_relu_network,
    predicted_steps,
    run_trajectories,
    slide,
)
from madzoo.workflows.study_valleys_protocol import Toys

__all__ = ["make_objectives", "run_toys"]

Record = dict[str, Any]
CURVES = 300  # records of a drawn path


def make_objectives() -> dict[str, Objective]:
    """Returns the objectives that all algorithms are run on, by name; what is drawn is drawn with seed 0."""
    return {
        "product": ScalarProduct(),
        "deep product": ScalarProduct(factors=3),
        "least squares": draw_least_squares(4, 9, seed=0),
        "matrix product": draw_linear_network((3, 4, 2), seed=0),
        "ReLU network": draw_relu_network(3, inputs=2, samples=16, seed=0),
        "diagonal SSM": DiagonalSSM(rates=(0.1, 0.7), weights=(1.0, -0.5), length=12),
    }


def run_toys(toys: Toys) -> dict[str, list[Record]]:
    """Returns ``{"edge", "flow", "slides", "rests", "algorithms"}``, lists of plain records.

    Cost: two minutes of one core with the default sizes.
    """
    return {
        "edge": _edge(toys),
        "flow": [_flow(toys, lr) for lr in toys.flow_lrs],
        "slides": [_slide(toys, lr, sigma) for lr, sigmas in toys.slides for sigma in sigmas],
        "rests": [_rest(toys, lr, sigma) for lr, sigma in toys.rests],
        "algorithms": [r for name, objective in make_objectives().items() for r in _algorithms(toys, name, objective)],
    }


def _edge(toys: Toys) -> list[Record]:
    start = torch.tensor(toys.edge_start, dtype=torch.float64)
    every = max(toys.edge_steps // CURVES, 1)
    found = run_trajectories(
        ScalarProduct(), start, toys.edge_lrs, seeds=[0], steps=toys.edge_steps, record_every=every
    )
    return [
        {
            "lr": lr,
            "limit": 2 / lr,
            "steps": found.steps.tolist(),
            "sharpness": found.sharpness[:, i, 0].tolist(),
            "loss": found.loss[-1, i, 0].item(),
            "diverged_at": found.diverged_at[i, 0].item(),
        }
        for i, lr in enumerate(toys.edge_lrs)
    ]


def _flow(toys: Toys, lr: float) -> Record:
    start = torch.tensor(toys.flow_start, dtype=torch.float64)
    steps = round(toys.flow_time / lr)
    found = run_trajectories(ScalarProduct(), start, [lr], seeds=[0], steps=steps, record_every=steps)
    drift = found.conserved_drift[-1, 0, 0].item()
    return {"lr": lr, "steps": steps, "drift": drift, "loss": found.loss[-1, 0, 0].item()}


def _slide(toys: Toys, lr: float, sigma: float) -> Record:
    """Measures the decay of a^2 - b^2 over the steps in which theory halves it."""
    steps = predicted_steps(toys.slide_start, lr=lr, sigma=sigma, log_decay=math.log(2))
    found = slide(toys.slide_start, lr=lr, sigma=sigma, steps=steps, paths=toys.paths, seed=0)
    return {
        "lr": lr,
        "sigma": sigma,
        "steps": steps,
        "predicted": math.log(2) / steps,
        "leading": (lr * sigma) ** 2,
        "measured": _rate(found.log_decay, steps),
        "stderr": _rate(found.stderr, steps),
        "diverged": found.diverged,
        "crossed": found.crossed,
        "paths": toys.paths,
    }


def _rate(decay: float | None, steps: int) -> float | None:
    return None if decay is None else decay / steps


def _rest(toys: Toys, lr: float, sigma: float) -> Record:
    steps = math.ceil(5 / (lr * sigma) ** 2)
    found = slide(toys.slide_start, lr=lr, sigma=sigma, steps=steps, paths=toys.paths, seed=1)
    squares = {"squares": found.squares, "stderr": found.squares_stderr}
    return {"lr": lr, "sigma": sigma, "steps": steps, "diverged": found.diverged} | squares


def _cases(toys: Toys, objective: Objective) -> list[tuple[str, Algorithm, Noise, float]]:
    """Returns (name, algorithm, noise, share of 2 / sharpness that is the step size; Adam's own step size)."""
    cases = [
        ("GD", Algorithm(), Noise(), 0.4),
        ("GD, 1.2 of 2/λ", Algorithm(), Noise(), 1.2),
        ("momentum", Algorithm(name="momentum"), Noise(), 0.4),
        ("label noise", Algorithm(), Noise(kind="label", scale=toys.label), 0.4),
        ("isotropic noise", Algorithm(), Noise(kind="isotropic", scale=toys.isotropic), 0.4),
        ("SAM", Algorithm(name="sam", rho=toys.rho), Noise(), 0.4),
        ("Adam", Algorithm(name="adam"), Noise(), 0.0),
        ("AdamW", Algorithm(name="adamw", weight_decay=0.1), Noise(), 0.0),
    ]
    rows = objective.residual(objective.flattest_point()).shape[-1]
    if rows > 1:
        cases.insert(3, ("mini-batch", Algorithm(), Noise(kind="minibatch", batch=rows // 2), 0.4))
    return cases


def _algorithms(toys: Toys, name: str, objective: Objective) -> list[Record]:
    """Runs every algorithm from one point beside the valley, at the same share of the largest stable step size."""
    found: list[Record] = []
    start = objective.valley_point(toys.spread) + toys.off
    at_start, flattest = (objective.sharpness(p).item() for p in (start, objective.flattest_point()))
    for label, algorithm, noise, share in _cases(toys, objective):
        lr = 2 * share / at_start if share else 0.01
        run = run_trajectories(
            objective,
            start,
            [lr],
            seeds=range(1 if noise.kind == "none" else toys.seeds),
            steps=toys.steps,
            record_every=toys.steps,
            algorithm=algorithm,
            noise=noise,
        )
        keys = ("sharpness", "distance", "drift", "loss", "conserved_drift")
        ends = {key: _mean(getattr(run, key)[-1, 0]) for key in keys}
        names = {"objective": name, "algorithm": label, "lr": lr, "start": at_start, "flattest": flattest}
        found.append(names | ends | {"diverged": int(run.diverged.sum())})
    return found


def _mean(values: torch.Tensor) -> float | None:
    """Returns the mean over the seeds; None where a path had no valley point nearby."""
    return values.mean().item() if bool(values.isfinite().all()) else None
