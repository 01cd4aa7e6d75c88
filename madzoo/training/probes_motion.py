"""How much of a network's motion its answers can see: inside the row space of J, and inside its null space.

Legend: P real parameters, m rows (n samples times K answers), J [m, P] their derivative, r = rank J, V [P, r] a basis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.jacobian import jacobian_rows
from madzoo.geometry.sampled_loss import flatten
from madzoo.geometry.selection import Output

__all__ = ["Motion", "flat_parameters", "row_space", "split_motion"]

MAX_ROWS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """States how far the parameters have moved, and in which directions.

    Attributes:
        length: of the displacement.
        inside: length of its part in the row space of J: to first order what the answers on the samples see.
        outside: length of its part in the null space, along which the answers stay to first order.
        rank, num_params: of J. A direction drawn at random has ``rank / num_params`` of its square inside.
    """

    length: float
    inside: float
    outside: float
    rank: int
    num_params: int

    @property
    def share_inside(self) -> float | None:
        """The part of the squared length that lies in the row space; None for no motion."""
        return (self.inside / self.length) ** 2 if self.length > 0 else None


def flat_parameters(model: nn.Module) -> Tensor:
    """Returns a copy of all parameters as one real vector [P] in float64, in the order of the columns of J."""
    return flatten([p.detach() for p in model.parameters()]).double().clone()


def row_space(model: nn.Module, inputs: Tensor, *, output: Output = "logits", rtol: float = 1e-9) -> Tensor:
    """Returns an orthonormal basis of the row space of J at the present parameters, on the CPU.

    Args:
        model: any module; it is copied, in eval mode and float64.
        inputs: n fixed samples.
        output: what is differentiated, see :func:`madzoo.geometry.local_dimension`.
        rtol: singular values below this share of the largest count as 0.

    Shapes:
        -> [P, r].

    Raises:
        ConfigError: when there are more than 512 rows.

    Cost: m backward passes of one sample, and O(P m^2).
    """
    rows: list[Tensor] = []
    for row in jacobian_rows(model, inputs, output=output):
        rows.append(row.cpu())
        if len(rows) > MAX_ROWS:
            todo = "fewer samples, or output=lambda y: y[..., :k]"
            raise ConfigError("the samples have too many answers.", asked=f"over {MAX_ROWS} rows", todo=todo)
    left, sigma, _ = torch.linalg.svd(torch.stack(rows, dim=1), full_matrices=False)
    return left[:, sigma > rtol * sigma[0]] if sigma[0] > 0 else left[:, :0]


def split_motion(basis: Tensor, displacement: Tensor) -> Motion:
    """Splits a displacement [P] by a basis [P, r] of orthonormal columns.

    Example:
        >>> found = split_motion(torch.tensor([[1.0], [0.0]]), torch.tensor([3.0, 4.0]))
        >>> found.length, found.inside, found.outside, round(found.share_inside, 2)
        (5.0, 3.0, 4.0, 0.36)
    """
    displacement = displacement.to(basis)
    along = basis.T @ displacement
    aside = displacement - basis @ along
    return Motion(
        length=displacement.norm().item(),
        inside=along.norm().item(),
        outside=aside.norm().item(),
        rank=basis.shape[1],
        num_params=basis.shape[0],
    )
