"""Which tensor lives on which grid: the plan of a bit width, and what it stores."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.fake_quant import quantizers
from madzoo.quantization.grid import Grid, to_rows
from madzoo.quantization.quantized import Plan
from madzoo.quantization.tensor_kinds import is_delicate

__all__ = [
    "make_plan",
    "quantized_parameters",
    "stored_bits",
    "uniform_plan",
    "weight_grid",
]

SPARED_BITS = 8  # of what is small and delicate: vectors, and the matrices of the recurrence
ZERO_POINT_BITS = 8  # a zero point is a code


def quantized_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns every floating or complex parameter by name, tied ones once.

    Raises:
        ConfigError: when the model is under quantization-aware training: its parameters are latents and scales.
    """
    if present := quantizers(model):
        asked, todo = ", ".join(present), "finish() of its Qat, or restore(model), first"
        raise ConfigError("the parameters of the model show their levels already.", asked=asked, todo=todo)
    return {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}


def uniform_plan(model: nn.Module, bits: int) -> dict[str, Grid]:
    """Plans one symmetric grid of the same bits for every parameter: one scale per slice of axis 0, of a vector one."""
    return {name: weight_grid(p, bits) for name, p in quantized_parameters(model).items()}


def make_plan(
    model: nn.Module,
    bits: int,
    *,
    kind: str = "uniform",
    group_size: int | None = None,
    per_channel: bool = True,
    spared_bits: int | None = SPARED_BITS,
    spare: Callable[[str, Tensor], bool] | None = None,
) -> dict[str, Grid]:
    """Plans the grids of a model that is meant to be used: matrices at few bits, what is small and delicate at more.

    Args:
        model: any module.
        bits: of matrices and convolutions.
        kind: of their grids, see :class:`Grid`; the spared tensors' are uniform.
        group_size: one scale per so many elements of a row, beside one per row.
        per_channel: False gives every tensor one scale.
        spared_bits: of the spared tensors, at least ``bits``; None leaves them as they are.
        spare: ``(name, tensor) -> bool``; by default vectors and the recurrence
            (:data:`madzoo.quantization.tensor_kinds.RECURRENT`).

    Raises:
        ConfigError: when a grid is none, or the model is under quantization-aware training.
    """
    spare = spare or is_delicate
    plan: dict[str, Grid] = {}
    for name, p in quantized_parameters(model).items():
        if not spare(name, p):
            plan[name] = Grid(bits=bits, kind=kind, axis=0 if per_channel else None, group_size=group_size)
        elif spared_bits is not None:
            plan[name] = weight_grid(p, max(spared_bits, bits))
    return plan


def weight_grid(tensor: Tensor, bits: int) -> Grid:
    """Returns the symmetric grid with one scale per slice of axis 0, and one for a vector."""
    return Grid(bits=bits, axis=0 if tensor.ndim >= 2 else None)


def stored_bits(shapes: Mapping[str, Tensor], plan: Plan) -> int:
    """Returns what the tensors take in bits: codes, float32 scales, zero points of a byte; unplanned ones in float32.

    Raises:
        ShapeError: when the axis of a grid is none of its tensor's.
    """
    total = 0
    for name, tensor in shapes.items():
        codes = torch.empty(tensor.shape + (2,) * tensor.is_complex(), device="meta")
        if (grid := plan.get(name)) is None:
            total += 32 * codes.numel()
            continue
        each = 32 + (0 if grid.symmetric else ZERO_POINT_BITS)
        total += grid.bits * codes.numel() + each * len(to_rows(codes, grid))
    return total
