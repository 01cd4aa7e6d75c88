"""Runs the objectives with known answers, and keeps what the page tabulates: plain numbers, per seed where drawn."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from madzoo.landscape import (
    RECOVERIES,
    VALLEY_METHODS,
    best_grid_point,
    best_random_rounding,
    descend_valley,
    draw_sparse_problems,
    draw_valley,
    recover_support,
    round_minimiser,
    two_level_orbit,
)
from madzoo.workflows.study_ste_protocol import Toys

__all__ = ["run_toys"]


def run_toys(toys: Toys) -> dict[str, Any]:
    """Returns ``{"two_level", "valley", "sparse"}``, lists of plain records.

    Cost: two minutes of one core with the default sizes.
    """
    return {"two_level": _two_level(toys), "valley": _valley(toys), "sparse": _sparse(toys)}


def _two_level(toys: Toys) -> list[dict[str, Any]]:
    c, lr, draws = np.meshgrid(toys.targets, toys.orbit_lrs, toys.seeds, indexing="ij")
    start = np.stack([np.random.default_rng(seed).uniform(-1, 1, c.shape[:2]) for seed in toys.seeds], axis=-1)
    settle = int(np.ceil(np.max(np.abs(start) / (lr * (1 - np.abs(c))))))
    orbit = two_level_orbit(c, lr, start=start, steps=toys.orbit_steps, settle=settle)
    cells = zip(*(values.ravel().tolist() for values in (c, lr, draws, orbit.mean, orbit.flip_frequency)), strict=True)
    names = ("c", "lr", "seed", "mean", "flip_frequency")
    return [dict(zip(names, cell, strict=True)) | {"tolerance": orbit.tolerance} for cell in cells]


def _valley(toys: Toys) -> list[dict[str, Any]]:
    found = []
    for rank in toys.ranks:
        for seed in toys.seeds:
            valley = draw_valley(toys.problems, dim=toys.dim, rank=rank, seed=seed)
            best, rounded = best_grid_point(valley), round_minimiser(valley)
            drawn = best_random_rounding(valley, toys.valley_steps, seed=seed)
            names = {"rank": rank, "seed": seed}
            found.append(names | {"method": "rounding", "last_gap": _gap(rounded, best)})
            found.append(names | {"method": "random_rounding", "best_gap": _gap(drawn, best)})
            for method in VALLEY_METHODS:
                run = descend_valley(valley, torch.tensor(toys.valley_lrs), method=method, steps=toys.valley_steps)
                for i, lr in enumerate(toys.valley_lrs):
                    found.append(
                        names
                        | {"method": method, "lr": lr}
                        | {"last_gap": _gap(run.last[i], best), "best_gap": _gap(run.best[i], best)}
                        | {"last_wins": _mean(run.last[i] < rounded - 1e-12)}
                        | {"last_loses": _mean(run.last[i] > rounded + 1e-12)}
                        | {"finds_best": _mean(run.best[i] < best + 1e-9)}
                        | {"flip_frequency": _mean(run.flip_frequency[i])}
                        | {"latent_distance": _mean(run.latent_distance[i])}
                        | {"mean_gradient": _mean(run.mean_gradient[i])}
                        | {"identity_error": (run.mean_gradient[i] - run.telescoped[i]).abs().max().item()}
                        | {"off_valley": run.off_valley[i].max().item()}
                    )
    return found


def _sparse(toys: Toys) -> list[dict[str, Any]]:
    found = []
    for correlation in toys.correlations:
        for k in toys.sparsities:
            for seed in toys.seeds:
                problems = draw_sparse_problems(
                    toys.problems, rows=toys.rows, columns=toys.columns, k=k, correlation=correlation, seed=seed
                )
                rates = {m: _mean(recover_support(problems, method=m, iterations=toys.iterations)) for m in RECOVERIES}
                found.append({"correlation": correlation, "k": k, "seed": seed} | rates)
    return found


def _gap(loss: Tensor, best: Tensor) -> float:
    return _mean((loss - best).clamp(min=0))  # below 0 by round-off alone


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
