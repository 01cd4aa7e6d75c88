"""Post-training quantization: a model, a plan and a policy in, a rounded copy and the record of what was done out."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import check_choice
from madzoo.quantization.bias_correction import correct_biases
from madzoo.quantization.calibration import Calibration, Losses, calibrate_on
from madzoo.quantization.gauge_descent import descend_gauges
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.quantized import (
    Plan,
    QuantizedTensor,
    load_quantized,
    planned_parameters,
    quantize_weights,
)  # fmt: skip

__all__ = ["POLICIES", "PostTraining", "post_training"]

POLICIES = ("rtn", "bias_corrected", "gauge", "mixed")
Batches = Iterable[tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PostTraining:
    """Holds a rounded model and how it came about.

    Attributes:
        model: a copy of the caller's whose planned weights are on their levels, as floats.
        weights: the same weights as codes and scales.
        plan: their grids.
        policy: how they were rounded.
        steps: what was tried on calibration data and whether it was kept, plain JSON values.
    """

    model: nn.Module
    weights: dict[str, QuantizedTensor]
    plan: Plan
    policy: str
    steps: tuple[dict[str, Any], ...]


@torch.inference_mode(False)
def post_training(
    model: nn.Module,
    plan: Plan,
    *,
    policy: str = "rtn",
    observer: str = "min_max",
    calibration: Batches | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    max_steps: int = 80,
    seed: int = 0,
) -> PostTraining:
    """Rounds a model's weights to a plan's grids without training.

    ================== ===============================================================================================
    policy             what is done
    ================== ===============================================================================================
    ``rtn``            round to nearest
    ``bias_corrected`` and then :func:`correct_biases`, whatever the loss says
    ``gauge``          weights first move along gauges (:func:`descend_gauges`); biases are corrected if the loss falls
    ``mixed``          biases are corrected if the loss falls; the plan is the caller's, from :func:`mixed_plan`
    ================== ===============================================================================================

    Args:
        model: any module; it is copied, never changed. All policies but ``rtn`` need one that gives one tensor.
        plan: grids by parameter name; other parameters stay floats.
        policy: one of :data:`POLICIES`.
        observer: ``"min_max"``, ``"percentile"`` or ``"mse"``.
        calibration: (inputs, targets); needed by all policies but ``rtn``, which only has its loss recorded.
        loss_fn: (outputs, targets) -> the mean over samples.
        max_steps: evaluations of the calibration loss in the gauge descent.
        seed: of its random steps.

    Raises:
        ConfigError: on an unknown policy or observer, a plan that does not fit
            (:func:`madzoo.quantization.quantized.planned_parameters`), missing calibration, or a model under
            quantization-aware training.
        DataError: when calibration has no samples or no targets, or a weight is not finite.

    Example:
        >>> from madzoo.quantization.plan import make_plan
        >>> net, x = nn.Linear(4, 2), torch.randn(64, 4)
        >>> data = {"calibration": [(x, net(x))], "loss_fn": nn.functional.mse_loss}
        >>> found = post_training(net, make_plan(net, 4), policy="bias_corrected", **data)
        >>> sorted(found.weights), [step["step"] for step in found.steps]
        (['bias', 'weight'], ['round', 'bias_correction'])
    """
    check_choice("policy", policy, POLICIES)
    quantized_parameters(model)  # refuses latents
    planned_parameters(model, plan)
    needed = policy != "rtn" or calibration is not None or loss_fn is not None
    judge = calibrate_on(calibration, loss_fn, policy=policy) if needed else None
    source = copy.deepcopy(model).eval()
    steps: list[dict[str, Any]] = []
    if judge and policy == "gauge":
        source, steps = descend_gauges(source, plan, judge, observer=observer, max_steps=max_steps, seed=seed)
        steps = [{"step": "gauge", **step} for step in steps]
    weights = quantize_weights(source, plan, observer=observer)
    rounded = load_quantized(copy.deepcopy(source), weights)
    if judge:
        losses = judge.losses(rounded)
        steps.append({"step": "round", "loss_float": judge.loss(source), "loss_after": losses.mean})
        if policy != "rtn":
            always = policy == "bias_corrected"
            rounded, biases, step = _corrected(rounded, source, plan, judge, observer, losses=losses, always=always)
            weights |= biases
            steps.append(step)
    rounded = _restore_modes(rounded, model)
    return PostTraining(model=rounded, weights=weights, plan=dict(plan), policy=policy, steps=tuple(steps))


def _corrected(
    rounded: nn.Module,
    source: nn.Module,
    plan: Plan,
    judge: Calibration,
    observer: str,
    *,
    losses: Losses,
    always: bool,
) -> tuple[nn.Module, dict[str, QuantizedTensor], dict[str, Any]]:
    """Corrects the biases of a copy; keeps it if the loss falls on both halves of the data, or always."""
    twin = copy.deepcopy(rounded)
    biases = correct_biases(twin, source, judge.inputs, plan=plan, observer=observer)
    after = judge.losses(twin)
    kept = always or after.below(losses)
    step = {"step": "bias_correction", "loss_before": losses.mean, "loss_after": after.mean, "kept": kept}
    return (twin, biases, step) if kept else (rounded, {}, step)


def _restore_modes(rounded: nn.Module, model: nn.Module) -> nn.Module:
    """Puts each module back into the mode of the caller's."""
    for mine, theirs in zip(rounded.modules(), model.modules(), strict=True):
        mine.training = theirs.training
    return rounded
