"""What a comparison of small image models consists of: its plan, read from a YAML file, and the runs that follow.

Every family first tries its shapes at one learning rate, then the best shape at the other rates, all for a short time
with the first seed and judged on the validation part; the choice is then trained for the full time with every seed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from madzoo.factory import create_model

__all__ = ["Plan", "Run", "load_plan", "next_runs", "read_results"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Names one training of a comparison.

    Attributes:
        family, shape: of the plan.
        rate: the learning rate.
        seed: of initial weights, order and augmentation.
        final: for the full time and met by the test part, or for the short time of the search.
    """

    family: str
    shape: str
    rate: float
    seed: int
    final: bool

    @property
    def slug(self) -> str:
        """Returns a name for its folder."""
        shape = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in self.shape)
        return f"{self.family}-{shape}-{self.rate}-seed{self.seed}-{'final' if self.final else 'search'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """States what is compared; see the files in ``scripts/comparisons``.

    Attributes:
        dataset: a name of the data catalog.
        seconds, search_seconds: processor time of a final run, and of one of the search.
        rates: learning rates; the first serves the search for a shape.
        seeds: of the final runs; the first also of the search.
        recipe: entries of every run's :class:`madzoo.training.recipe.Recipe`.
        families: name -> model, its common arguments, and its shapes.
        num_classes: of the data.
    """

    dataset: str
    seconds: float
    search_seconds: float
    rates: Sequence[float]
    seeds: Sequence[int]
    recipe: Mapping[str, Any]
    families: Mapping[str, Mapping[str, Any]]
    num_classes: int = 10

    def build(self, family: str, shape: str, *, seed: int) -> nn.Module:
        """Returns a contestant with random weights."""
        entry = self.families[family]
        torch.manual_seed(seed)
        return create_model(
            entry["model"], num_classes=self.num_classes, **entry.get("args", {}), **entry["shapes"][shape]
        )

    def contestants(self) -> list[tuple[str, str]]:
        """Returns every (family, shape)."""
        return [(family, shape) for family, entry in self.families.items() for shape in entry["shapes"]]


def load_plan(path: Path) -> Plan:
    """Reads a plan."""
    return Plan(**yaml.safe_load(path.read_text()))


def next_runs(plan: Plan, results: Mapping[str, Mapping[str, Any]]) -> tuple[list[Run], bool]:
    """Returns the runs known so far that have no result, and whether these are the last ones.

    Args:
        plan: of the comparison.
        results: slug of a run -> its record, with ``validation["top1"]``.
    """
    open_runs, complete = [], True
    for family, entry in plan.families.items():
        first = [_search(plan, family, shape, plan.rates[0]) for shape in entry["shapes"]]
        second = _after(first, results, lambda best: [_search(plan, best.family, best.shape, r) for r in plan.rates])
        last = _after(second, results, lambda best: [_final(plan, best, seed) for seed in plan.seeds])
        complete = complete and bool(last)
        open_runs += [run for run in dict.fromkeys([*first, *second, *last]) if run.slug not in results]
    return open_runs, complete


def _after(runs: list[Run], results: Mapping[str, Mapping[str, Any]], follow: Callable[[Run], list[Run]]) -> list[Run]:
    if not runs or any(run.slug not in results for run in runs):
        return []
    return follow(max(runs, key=lambda run: results[run.slug]["validation"]["top1"]))


def _search(plan: Plan, family: str, shape: str, rate: float) -> Run:
    return Run(family=family, shape=shape, rate=rate, seed=plan.seeds[0], final=False)


def _final(plan: Plan, best: Run, seed: int) -> Run:
    return Run(family=best.family, shape=best.shape, rate=best.rate, seed=seed, final=True)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the records of finished runs by slug."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}
