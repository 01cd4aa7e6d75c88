"""Gauge-aware preparation: weights move along gauges of the model while the rounded model's calibration loss falls."""

import copy
from typing import Any

import torch
from torch import nn

from madzoo.geometry.compose import Placed, parameters_of
from madzoo.quantization.calibration import Calibration
from madzoo.quantization.gauge_moves import Params, find_gauges, is_inert, move, round_named
from madzoo.quantization.gauge_search import Search, best_step
from madzoo.quantization.quantized import Plan, load_quantized

__all__ = ["descend_gauges"]

PASSES = 2
SHRINKS = (1.0, 0.5)  # of a step, tried in turn until the loss falls
WORTH = 0.999  # a step is tried on data where the weighted error falls below this share


def descend_gauges(
    model: nn.Module,
    plan: Plan,
    calibration: Calibration,
    *,
    observer: str = "min_max",
    max_steps: int = 80,
    trials: int = 16,
    seed: int = 0,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Moves a copy of a model along its gauges to weights that lose less when rounded; its function stays.

    Gauge by gauge, in two passes: the step with the least weighted rounding error is sought
    (:func:`madzoo.quantization.gauge_search.best_step`), and kept only if it lowers the calibration loss of the rounded
    model on either half of the same samples: a step that fits one half by chance is left. Gauges that
    rounding does not see are skipped (:mod:`madzoo.quantization.gauge_moves` says which).

    Args:
        model: in eval mode, on the CPU.
        plan: the grids.
        calibration: samples and loss.
        observer: see :func:`madzoo.quantization.observers.find_scale`.
        max_steps: evaluations of the calibration loss at most.
        trials: random steps along one gauge and pass, ranked without the data.
        seed: of these.

    Returns:
        The moved model, not rounded, and a record of every step that was judged by the loss: ``gauge, path, parameters,
        error_ratio, loss_before, loss_after, kept``.

    Cost: ``max_steps`` forward passes over the calibration set, one backward pass, and the search.
    """
    moved = copy.deepcopy(model)
    descent = _Descent(moved, plan, calibration, observer=observer, max_steps=max_steps)
    gauges = [g for g in find_gauges(model, calibration.inputs, seed=seed) if not descent.inert(g)]
    random = torch.Generator().manual_seed(seed)
    for _ in range(PASSES):
        squares = calibration.squared_gradients(descent.rounded)
        search = Search(plan=plan, observer=observer, squares=squares, trials=trials, random=random)
        before = descent.losses
        for gauge in gauges:
            descent.try_gauge(gauge, search)
        if descent.losses == before:
            break
    return moved, descent.steps


class _Descent:
    """The moving model beside its rounded copy."""

    def __init__(
        self, model: nn.Module, plan: Plan, calibration: Calibration, *, observer: str, max_steps: int
    ) -> None:
        self.model, self.plan, self.calibration, self.observer = model, plan, calibration, observer
        self.rounded = copy.deepcopy(model)
        self.left, self.steps = max_steps, []
        self._round(parameters_of(model))
        self.losses = calibration.losses(self.rounded)

    def inert(self, gauge: Placed) -> bool:
        return is_inert(gauge, parameters_of(self.model), self.plan)

    def try_gauge(self, gauge: Placed, search: Search) -> None:
        params = {k: p.to(torch.promote_types(p.dtype, torch.float64)) for k, p in parameters_of(self.model).items()}
        t, ratio = best_step(gauge, params, search)
        for shrink in SHRINKS if ratio < WORTH else ():
            if self.left and self._judge(gauge, move(gauge, params, shrink * t), ratio):
                return

    def _judge(self, gauge: Placed, moved: Params, ratio: float) -> bool:
        old = {name: self.model.get_parameter(name).detach().clone() for name in moved}
        new = {name: value.to(old[name].dtype) for name, value in moved.items()}
        self._round(new)
        losses, self.left = self.calibration.losses(self.rounded), self.left - 1
        kept = losses.below(self.losses)
        self.steps.append({
            "gauge": gauge.symmetry.name,
            "path": gauge.path,
            "parameters": sorted(moved),
            "error_ratio": ratio,
            "loss_before": self.losses.mean,
            "loss_after": losses.mean,
            "kept": kept,
        })  # fmt: skip
        if kept:
            _load(self.model, new)
            self.losses = losses
        else:
            self._round(old)
        return kept

    def _round(self, tensors: Params) -> None:
        _load(self.rounded, tensors)
        load_quantized(self.rounded, round_named(tensors, self.plan, observer=self.observer))


@torch.no_grad()
def _load(model: nn.Module, tensors: Params) -> None:
    for name, value in tensors.items():
        model.get_parameter(name).copy_(value)
