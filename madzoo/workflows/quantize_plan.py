"""Which tensor of a subject goes on which grid: by its role, or by what each kind costs on calibration data."""

from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.calibration import calibrate_on
from madzoo.quantization.grid import Grid
from madzoo.quantization.increases import measured_increases
from madzoo.quantization.mixed_precision import mixed_plan
from madzoo.quantization.plan import make_plan, quantized_parameters, stored_bits
from madzoo.workflows.quantize_task import OBSERVER, samples
from madzoo.workflows.training_task import TrainingTask

__all__ = ["choose_plan"]


def choose_plan(
    model: nn.Module, bits: int, *, group_size: int | None, policy: str | None, task: TrainingTask
) -> dict[str, Grid]:
    """Plans the grids: matrices at few bits, what is small and delicate at 8; two bits are ternary.

    Raises:
        ConfigError: on bits that no grid has, or groups longer than every row of the model, which would be filled up.
    """
    longest = max((_row_length(p) for p in quantized_parameters(model).values()), default=0)
    if group_size is not None and group_size > longest:
        raise ConfigError(
            "no row is as long as a group.", asked=f"group_size={group_size}", resolved=f"rows of {longest} at most",
            todo="no group size, for one scale per row",
        )  # fmt: skip
    kind = "ternary" if bits == 2 else "uniform"
    plan = make_plan(model, bits, kind=kind, group_size=group_size)
    if policy != "mixed":
        return plan
    judge = calibrate_on(samples(task), task.loss, policy="mixed")
    increases = measured_increases(model, judge, observer=OBSERVER, group_size=group_size)
    budget = stored_bits(quantized_parameters(model), plan)
    return mixed_plan(model, increases, budget, group_size=group_size)


def _row_length(parameter: Tensor) -> int:
    """Real numbers that share a scale where there are no groups; a vector is one row."""
    rows = max(len(parameter), 1) if parameter.ndim > 1 else 1
    return parameter.numel() * (1 + parameter.is_complex()) // rows
