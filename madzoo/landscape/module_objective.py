"""Any module as an objective with a valley: it fits its own answers, so that its parameters lie on the bottom.

Legend: n samples with K outputs each, m = n K residuals, P real parameters, flat in the order of ``named_parameters``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from madzoo.errors import ConfigError, ShapeError
from madzoo.landscape.objective import Objective

__all__ = ["ModuleObjective", "fit_own_answers"]

RANK_TOLERANCE = 1e-10  # of the singular values of J, beside the largest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModuleObjective(Objective):
    """``|f_theta(x) - y|^2 / (2 n)`` with the answers y of a known theta: its valley runs through that point.

    Nothing else is known of it: the distance is a local one, nothing is conserved, and the flattest point is not given.

    Attributes:
        module: in eval mode and float64; its forward must run under ``vmap``.
        inputs: [n, ...]. targets: [n, K]. point: theta, [P]. rank: of J there.
    """

    distance_is_exact: ClassVar[bool] = False
    module: nn.Module
    inputs: Tensor
    targets: Tensor
    point: Tensor
    rank: int

    @property
    def num_params(self) -> int:
        """P."""
        return len(self.point)

    @property
    def valley_dimension(self) -> int:
        """P - rank J."""
        return self.num_params - self.rank

    def residual(self, theta: Tensor) -> Tensor:
        """Returns the differences over sqrt(n), [..., n K]."""
        flat = theta.reshape(-1, theta.shape[-1])
        answers = vmap(lambda point: _answer(self.module, self.inputs, point))(flat)
        r = (answers - self.targets).flatten(1) / len(self.inputs) ** 0.5
        return r.reshape(*theta.shape[:-1], -1)

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns the known point.

        Raises:
            ConfigError: for any spread but 1: no other point is known.
        """
        if spread != 1:
            raise ConfigError("of a module's valley one point is known.", asked=f"spread {spread}")
        return self.point

    def flattest_point(self) -> Tensor:
        """Refuses: it is not known.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("the flattest point of a module's valley is not known.", asked=type(self.module).__name__)

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns a valley point at a locally least distance."""
        return self.project(theta)

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns nothing, [..., 1] of zeros."""
        return torch.zeros_like(theta[..., :1])


def fit_own_answers(module: nn.Module, inputs: Tensor) -> ModuleObjective:
    """Makes the objective of fitting a module's own answers to some inputs.

    Args:
        module: with real parameters; it is put in eval mode and float64, so hand over a copy.
        inputs: [n, ...].

    Raises:
        ShapeError: when the answers are no tensor with a row per sample.

    Cost: m backward passes, and a singular value decomposition of m x P.
    """
    module.double().eval()
    inputs = inputs.double()
    point = torch.cat([p.detach().flatten() for p in module.parameters()])
    with torch.no_grad():
        targets = module(inputs)
    if not isinstance(targets, Tensor) or len(targets) != len(inputs):
        raise ShapeError("the module must return one tensor with a row per sample.", asked=type(targets).__name__)
    targets = targets.flatten(1)
    found = ModuleObjective(module=module, inputs=inputs, targets=targets, point=point, rank=1)
    sigma = torch.linalg.svdvals(found.jacobian(point))
    rank = int((sigma > RANK_TOLERANCE * sigma[0]).sum())
    return ModuleObjective(module=module, inputs=inputs, targets=targets, point=point, rank=rank)


def _answer(module: nn.Module, inputs: Tensor, point: Tensor) -> Tensor:
    values, first = {}, 0
    for name, parameter in module.named_parameters():
        values[name] = point[first : first + parameter.numel()].view_as(parameter)
        first += parameter.numel()
    return functional_call(module, values, (inputs,)).flatten(1)
