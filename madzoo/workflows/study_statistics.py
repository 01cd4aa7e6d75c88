"""Rank correlations of a few runs, honest about how few: pooled, and within each network alone."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["PROPERTIES", "Correlation", "correlate", "correlations", "dimension_share", "last", "mean_kept"]

PERMUTATIONS = 20_000
Run = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """States a Spearman correlation, its number of runs, and how often chance alone does as much."""

    rho: float
    p: float
    n: int


def last(run: Run) -> Mapping[str, Any]:
    """Returns what was measured at the end."""
    return run["records"][-1]


def dimension_share(run: Run) -> float:
    """Returns the local dimension at the end as a share of the parameters."""
    rank = last(run)["rank"]
    return rank["rank"] / rank["num_params"]


def mean_kept(run: Run, kind: str) -> float:
    """Returns the share of the accuracy that is left, averaged over all ratios of pruning or all widths in bits."""
    accuracy = last(run)["test"]
    return statistics.fmean(run["tolerance"][kind].values()) / accuracy if accuracy else 1.0


PROPERTIES: dict[str, Callable[[Run], float]] = {
    "test accuracy": lambda run: last(run)["test"],
    "generalisation gap": lambda run: last(run)["train"] - last(run)["test"],
    "largest eigenvalue": lambda run: last(run)["curvature"]["lambda_max"],
    "trace of the Hessian": lambda run: last(run)["curvature"]["trace"],
    "kept after pruning": lambda run: mean_kept(run, "pruning"),
    "kept after rounding": lambda run: mean_kept(run, "quantization"),
}


def correlations(runs: Sequence[Run]) -> dict[str, tuple[Correlation, Correlation]]:
    """Correlates the dimension share with every property: (over all runs, within networks)."""
    groups = [run["network"] for run in runs]
    share = [dimension_share(run) for run in runs]
    found = {}
    for name, measure in PROPERTIES.items():
        values = [measure(run) for run in runs]
        found[name] = correlate(share, values, groups, within=False), correlate(share, values, groups, within=True)
    return found


def correlate(x: Sequence[float], y: Sequence[float], groups: Sequence[str], *, within: bool) -> Correlation:
    """Computes Spearman's rho and a two-sided permutation p.

    Args:
        x, y: one value per run.
        groups: the network of each run.
        within: compare runs of the same network only: ranks are taken inside each group and centred, and chance
            permutes inside groups. What all runs of a network share then explains nothing.

    Example:
        >>> correlate([1, 2, 3, 4], [1, 3, 2, 9], ["a"] * 4, within=False).rho
        0.8
    """
    places = [[i for i, g in enumerate(groups) if g == group] for group in dict.fromkeys(groups)]
    places = places if within else [list(range(len(x)))]
    a, b = (_ranked(np.asarray(values, dtype=float), places) for values in (x, y))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return Correlation(rho=0.0, p=1.0, n=len(x))
    chance = np.array([a @ b[order] for order in _orders(places, len(x))])
    reached = np.abs(chance) >= abs(a @ b) - 1e-9
    return Correlation(rho=round(float(a @ b) / scale, 12), p=float(reached.mean()), n=len(x))


def _ranked(values: np.ndarray, places: Sequence[Sequence[int]]) -> np.ndarray:
    ranked = np.zeros(len(values))
    for place in places:
        part = values[place]
        mean_rank = [(part < v).sum() + ((part == v).sum() - 1) / 2 for v in part]
        ranked[place] = np.array(mean_rank) - (len(part) - 1) / 2
    return ranked


def _orders(places: Sequence[Sequence[int]], n: int) -> list[np.ndarray]:
    """Returns every permutation within the groups where they are few, else a fixed random sample of them."""
    count = np.prod([float(np.prod(np.arange(1, len(place) + 1, dtype=float))) for place in places])
    if count <= PERMUTATIONS:
        choices = itertools.product(*(itertools.permutations(place) for place in places))
        return [_order(places, choice, n) for choice in choices]
    rng = np.random.default_rng(0)
    drawn = [_order(places, [rng.permutation(place) for place in places], n) for _ in range(PERMUTATIONS - 1)]
    return [np.arange(n), *drawn]


def _order(places: Sequence[Sequence[int]], choice: Sequence[Any], n: int) -> np.ndarray:
    order = np.arange(n)
    for place, permuted in zip(places, choice, strict=True):
        order[list(place)] = list(permuted)
    return order
