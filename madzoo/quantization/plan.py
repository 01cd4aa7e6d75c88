"""Which tensor lives on which grid: kinds of tensors by their role, and the plan of a bit width."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from madzoo.quantization.grid import Grid
from madzoo.quantization.quantized import Plan

__all__ = [
    "KINDS_OF_TENSORS",
    "kind_of",
    "make_plan",
    "quantized_parameters",
    "stored_bits",
    "uniform_plan",
    "weight_grid",
]

SPARED_BITS = 8  # of what is small and delicate: vectors, and the matrices of the recurrence
RECURRENT = ("A", "dt", "C", "B", "D")

# The last part of a name that says what a state space parameter is, in the spelling of the published modules.
STATE_SPACE = {
    "A_log": "A", "A_logs": "A", "A_b_log": "A", "log_A_real": "A", "A_imag": "A", "Lambda_re": "A", "Lambda_im": "A",
    "A_re": "A", "A_im": "A", "log_dt": "dt", "log_step": "dt", "dt_bias": "dt", "dt_projs_weight": "dt",
    "dt_projs_bias": "dt", "B": "B", "C": "C", "D": "D", "Ds": "D", "D_b": "D",
}  # fmt: skip
# A part anywhere in the name, tried in this order.
ROLES = {
    "dt_proj": "dt", "x_proj": "x_proj", "in_proj": "in_proj", "out_proj": "out_proj", "pos_embed": "position",
    "patch_embed": "embed", "stem": "embed", "linear_skip": "skip", "head": "head", "gate": "gate", "mlp": "mlp",
    "feed_forward": "mlp", "ffn": "mlp",
}  # fmt: skip
KINDS_OF_TENSORS = (*dict.fromkeys(STATE_SPACE.values()), *dict.fromkeys(ROLES.values()), "conv", "linear", "vector")


def kind_of(name: str, tensor: Tensor) -> str:
    """Says what a parameter is for, by its name and shape: one of :data:`KINDS_OF_TENSORS`.

    Example:
        >>> import torch
        >>> kind_of("blocks.0.mixer.A_log", torch.zeros(4, 2)), kind_of("norm.weight", torch.zeros(4))
        ('A', 'vector')
    """
    parts = name.split(".")
    if parts[-1] in STATE_SPACE:
        return STATE_SPACE[parts[-1]]
    for part, kind in ROLES.items():
        if any(p == part or p.startswith(part) for p in parts) and (tensor.ndim > 1 or kind == "dt"):
            return kind
    if tensor.ndim < 2:
        return "vector"
    return "conv" if tensor.ndim > 2 else "linear"


def quantized_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns every floating or complex parameter by name, tied ones once."""
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
        spare: ``(name, tensor) -> bool``; by default vectors and the recurrence (A, dt, B, C, D).

    Raises:
        ConfigError: when a grid is none.
    """
    spare = spare or is_delicate
    plan: dict[str, Grid] = {}
    for name, p in quantized_parameters(model).items():
        if not spare(name, p):
            plan[name] = Grid(bits=bits, kind=kind, axis=0 if per_channel else None, group_size=group_size)
        elif spared_bits is not None:
            plan[name] = weight_grid(p, max(spared_bits, bits))
    return plan


def is_delicate(name: str, tensor: Tensor) -> bool:
    """Tells whether a tensor is a vector or belongs to a recurrence."""
    return tensor.ndim < 2 or kind_of(name, tensor) in RECURRENT


def weight_grid(tensor: Tensor, bits: int) -> Grid:
    """Returns the symmetric grid with one scale per slice of axis 0, and one for a vector."""
    return Grid(bits=bits, axis=0 if tensor.ndim >= 2 else None)


def stored_bits(shapes: Mapping[str, Tensor], plan: Plan) -> int:
    """Returns what the tensors take in bits, codes and scales, unplanned ones in float32."""
    total = 0
    for name, tensor in shapes.items():
        count = tensor.numel() * (2 if tensor.is_complex() else 1)
        if (grid := plan.get(name)) is None:
            total += 32 * count
            continue
        rows = 1 if grid.axis is None or tensor.ndim == 0 else tensor.shape[grid.axis]
        width = count // max(rows, 1)
        groups = rows if grid.group_size is None else rows * -(-width // grid.group_size)
        total += grid.bits * count + 32 * groups * (1 if grid.symmetric else 2)
    return total
