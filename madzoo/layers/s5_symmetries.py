"""The changes of unit that leave an S5 layer unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to the layer. P complex states.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["state_basis", "time_unit"]


def state_basis(states: int) -> Symmetry:
    """Declares that a state may be multiplied by a complex number: its row of B grows and turns, its C the other way.

    Args:
        states: P; the first P parameters of t are logarithms of sizes, the others angles.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        factor = torch.exp(torch.complex(t[:states], t[states:]))
        return {
            **params,
            "B": _times(params["B"], factor.unsqueeze(-1)),
            "C": _times(params["C"], (1 / factor).repeat(params["C"].shape[1] // states)),
        }

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        B, C = params["B"], params["C"]
        for row in torch.eye(states, dtype=B.dtype, device=B.device):
            for direction in (torch.complex(row, 0 * row), torch.complex(0 * row, row)):
                to_C = direction.repeat(C.shape[1] // states)
                yield {"B": _times(B, direction.unsqueeze(-1)), "C": -_times(C, to_C)}

    return Symmetry(name="s5.state_basis", dimension=2 * states, generators=generators, transform=transform)


def time_unit(states: int) -> Symmetry:
    """Declares that the time of a state has no unit: dt -> c dt, Lambda -> Lambda / c, B -> B / c.

    Args:
        states: P.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        shrink = (-t).exp()
        return {
            **params,
            "log_step": params["log_step"] + t,
            "Lambda_re": params["Lambda_re"] * shrink,
            "Lambda_im": params["Lambda_im"] * shrink,
            "B": params["B"] * shrink[:, None, None],
        }

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for row in torch.eye(states, dtype=params["log_step"].dtype, device=params["log_step"].device):
            yield {
                "log_step": row,
                "Lambda_re": -row * params["Lambda_re"],
                "Lambda_im": -row * params["Lambda_im"],
                "B": -row[:, None, None] * params["B"],
            }

    return Symmetry(name="s5.time_unit", dimension=states, generators=generators, transform=transform)


def _times(real_pairs: Tensor, factor: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(real_pairs.contiguous()) * factor)
