"""Post-training quantization: a model, a plan and a policy in, a rounded copy and the record of what was done out."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.quantization.bias_correction import correct_biases
from madzoo.quantization.calibration import Calibration, Losses, calibrate_on
from madzoo.quantization.gauge_descent import descend_gauges
from madzoo.quantization.grid import Grid
from madzoo.quantization.mixed_precision import measured_increases, mixed_plan
from madzoo.quantization.plan import make_plan, stored_bits, uniform_plan
from madzoo.quantization.quantized import Plan, QuantizedTensor, load_quantized, quantize_weights
from madzoo.quantization.round_to_nearest import check_bits, quantized_tensors

__all__ = ["POLICIES", "PostTraining", "post_training", "quantize"]

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
        model: any module; it is copied, never changed.
        plan: grids by parameter name; other parameters stay floats.
        policy: one of :data:`POLICIES`.
        observer: ``"min_max"``, ``"percentile"`` or ``"mse"``.
        calibration: (inputs, targets); needed by all policies but ``rtn``, which only has its loss recorded.
        loss_fn: (outputs, targets) -> the mean over samples.
        max_steps: evaluations of the calibration loss in the gauge descent.
        seed: of its random steps.

    Raises:
        ConfigError: on an unknown policy, observer or parameter, or missing calibration.
        DataError: when calibration has no samples, or a weight is not finite.

    Example:
        >>> import torch
        >>> net, x = nn.Linear(4, 2), torch.randn(64, 4)
        >>> data = {"calibration": [(x, net(x))], "loss_fn": nn.functional.mse_loss}
        >>> found = post_training(net, make_plan(net, 4), policy="bias_corrected", **data)
        >>> sorted(found.weights), [step["step"] for step in found.steps]
        (['bias', 'weight'], ['round', 'bias_correction'])
    """
    check_choice("policy", policy, POLICIES)
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


def quantize(
    model: nn.Module,
    bits: int,
    *,
    policy: str = "rtn",
    plan: Plan | None = None,
    calibration: Batches | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    observer: str | None = None,
    group_size: int | None = None,
    budget_bits: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Returns a copy of a model with rounded weights; buffers and the caller's model stay.

    The copy still stores floats (the grid is simulated), so it runs wherever the model runs. Tied parameters are
    rounded once and stay tied. With ``"rtn"`` alone nothing is spared: biases, norms, A_log and dt are rounded too, per
    tensor where they have one axis. The other policies round matrices to ``bits`` and what is small and delicate to 8
    (:func:`make_plan`); ``"mixed"`` chooses the bits of each kind of tensor under a budget.

    Args:
        model: any module.
        bits: 2 to 8.
        policy: ``"rtn"``, ``"bias_corrected"``, ``"gauge"`` or ``"mixed"``, see :func:`post_training`.
        plan: grids by parameter name, instead of the policy's own.
        calibration: (inputs, targets) of the training part; needed by all policies but ``"rtn"``.
        loss_fn: (outputs, targets) -> the mean over samples.
        observer: of the scales; None: ``"min_max"`` for ``"rtn"``, else ``"mse"``.
        group_size: one scale per so many consecutive elements of a row.
        budget_bits: what ``"mixed"`` may store, codes and scales; None: as much as ``make_plan(model, bits)`` takes.
        seed: of the gauge descent.

    Raises:
        ConfigError: on other bits, an unknown policy, missing calibration, or arguments that exclude each other.

    Example:
        >>> quantize(nn.Linear(3, 2), 4).weight.unique().numel() <= 2 * 15
        True
    """
    check_choice("policy", policy, POLICIES)
    check_bits(bits)
    if plan is not None and (group_size is not None or policy == "mixed"):
        raise ConfigError("a plan says group sizes and bits itself.", asked=f"plan, group_size, policy={policy!r}")
    if budget_bits is not None and policy != "mixed":
        raise ConfigError("a budget is for policy 'mixed'.", asked=f"policy={policy!r}, budget_bits={budget_bits}")
    observer = observer or ("min_max" if policy == "rtn" else "mse")
    batches = None if calibration is None else list(calibration)
    if plan is None and policy == "mixed":
        judge = calibrate_on(batches, loss_fn, policy=policy)
        plan = _mixed(model, bits, judge, observer=observer, group_size=group_size, budget_bits=budget_bits)
    elif plan is None:
        plan = _plain_plan(model, bits, policy=policy, group_size=group_size)
    found = post_training(
        model, plan, policy=policy, observer=observer, calibration=batches, loss_fn=loss_fn, seed=seed
    )
    return found.model


def _plain_plan(model: nn.Module, bits: int, *, policy: str, group_size: int | None) -> dict[str, Grid]:
    if policy != "rtn":
        return make_plan(model, bits, group_size=group_size)
    plan = uniform_plan(model, bits)
    return {name: replace(grid, group_size=group_size if grid.axis == 0 else None) for name, grid in plan.items()}


def _mixed(
    model: nn.Module,
    bits: int,
    judge: Calibration,
    *,
    observer: str,
    group_size: int | None,
    budget_bits: int | None,
) -> dict[str, Grid]:
    if budget_bits is None:
        budget_bits = stored_bits(quantized_tensors(model), make_plan(model, bits, group_size=group_size))
    increases = measured_increases(model, judge, observer=observer, group_size=group_size)
    return mixed_plan(model, increases, budget_bits, group_size=group_size)


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
