"""A model quantized in one call: bits and a policy in, a rounded copy out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.quantization.calibration import Calibration, calibrate_on
from madzoo.quantization.grid import Grid
from madzoo.quantization.increases import measured_increases
from madzoo.quantization.mixed_precision import check_budget, mixed_plan
from madzoo.quantization.plan import make_plan, quantized_parameters, stored_bits, uniform_plan
from madzoo.quantization.ptq import POLICIES, Batches, post_training
from madzoo.quantization.quantized import Plan
from madzoo.quantization.round_to_nearest import check_bits

__all__ = ["quantize"]


@torch.inference_mode(False)
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
        ConfigError: on other bits, an unknown policy, missing calibration, arguments that exclude each other, or a
            model under quantization-aware training.

    Example:
        >>> quantize(nn.Linear(3, 2), 4).weight.unique().numel() <= 2 * 15
        True
    """
    check_choice("policy", policy, POLICIES)
    check_bits(bits)
    if plan is not None and (group_size is not None or policy == "mixed"):
        raise ConfigError("a plan says group sizes and bits itself.", asked=f"plan, group_size, policy={policy!r}")
    if budget_bits is not None:
        check_budget(budget_bits)
        if policy != "mixed":
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
        budget_bits = stored_bits(quantized_parameters(model), make_plan(model, bits, group_size=group_size))
    increases = measured_increases(model, judge, observer=observer, group_size=group_size)
    return mixed_plan(model, increases, budget_bits, group_size=group_size)
