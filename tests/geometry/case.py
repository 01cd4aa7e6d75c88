"""What a case of known local dimension is, and how it is drawn."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Case", "draw", "generic", "mlp"]


class Case(NamedTuple):
    """Says what is built, on which sample, and what it must measure.

    Attributes:
        rank: the local dimension, by a formula.
        bound: what the ledger leaves, its upper bound less ``inactive``; None where that is the rank. A larger number
            stands where no symmetry of the whole function explains the rest: the sample, or a special point.
        inactive: what dead and always active units take away on the sample.
        input_rank: dimensions of the subspace that the inputs lie in, None for all.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: int
    num_params: int
    rank: int
    output: str = "logits"
    bound: int | None = None
    inactive: int = 0
    input_rank: int | None = None


def draw(case: Case, seed: int) -> tuple[nn.Module, Tensor]:
    """Builds the case and its Gaussian sample (scale 2) in float64, from a seed."""
    torch.manual_seed(seed)
    model = case.build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and (parameter == parameter[0]).all():
                parameter.add_(0.5 * torch.randn_like(parameter))  # gains and biases must be generic, not 1 and 0
    x = 2.0 * torch.randn(case.shape, dtype=torch.float64)
    if case.input_rank is not None:
        few = torch.randn(case.input_rank, case.shape[-1], dtype=torch.float64)
        x = x[..., : case.input_rank] @ few
    return model, x


def generic(model: nn.Module, size: float = 0.3) -> nn.Module:
    """Moves all parameters off the special values of an initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """Builds Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for d_in, d_out in itertools.pairwise(widths):
        layers += [nn.Linear(d_in, d_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])
