"""LinOSS: a state space model of forced harmonic oscillators.

Axes: B batch, L length, D channels (d_model), P oscillators (d_state).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.layers.axes import check_axes
from madzoo.ops.oscillator_scan import DISCRETIZATIONS, oscillator_scan, oscillator_step
from madzoo.symmetry import Parameters, Symmetry

__all__ = ["LinOSS", "LinOSSState"]


class LinOSSState(NamedTuple):
    """Holds what a :class:`LinOSS` remembers: velocities and positions, each real and imaginary, [B, 2, P]."""

    velocity: Tensor
    position: Tensor


class LinOSS(nn.Module):
    """Forces oscillators by a linear map of the input and reads the output from their positions: ``Re(C x) + D u``.

    ``x'' = -relu(A) x + B u`` with complex B and C, in steps ``sigmoid(steps)``. Causal: position t sees positions up
    to t, and :meth:`step` computes the same map one position at a time. Parameter names and shapes are the published
    ones.

    Args:
        d_model: number of channels.
        d_state: number of oscillators.
        discretization: ``"IM"``, whose oscillations decay, or ``"IMEX"``, whose do not.

    Raises:
        ConfigError: when a size is below 1 or the discretization unknown.

    Source: arXiv 2410.03943, section 2; parameter names of tk-rusch/linoss, models/LinOSS.py.

    Example:
        >>> LinOSS(4, d_state=8)(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    def __init__(self, d_model: int, *, d_state: int = 64, discretization: str = "IM") -> None:
        super().__init__()
        if d_model < 1 or d_state < 1:
            raise ConfigError("a size of the layer is below 1.", asked=f"{d_model=}, {d_state=}")
        if discretization not in DISCRETIZATIONS:
            raise ConfigError(
                f"no discretization is named {discretization!r}.",
                asked=discretization,
                looked=", ".join(DISCRETIZATIONS),
            )
        self.d_model, self.discretization = d_model, discretization
        self.A_diag = nn.Parameter(torch.rand(d_state))
        self.B = nn.Parameter((2 * torch.rand(d_state, d_model, 2) - 1) / d_model**0.5)
        self.C = nn.Parameter((2 * torch.rand(d_model, d_state, 2) - 1) / d_state**0.5)
        self.D = nn.Parameter(torch.randn(d_model))
        self.steps = nn.Parameter(torch.rand(d_state))

    def forward(self, x: Tensor, *, reverse: bool = False) -> Tensor:
        """Maps a sequence.

        Args:
            x: the sequence.
            reverse: run from the last position to the first.

        Shapes:
            x [B, L, D] -> [B, L, D].

        Raises:
            ShapeError: when x has another width or number of axes.

        Cost: O(B L P D) and that of :func:`madzoo.ops.long_conv` for 2 P sequences.
        """
        check_axes("LinOSS", x, "[B, L, D]", D=self.d_model)
        force_B2PL = torch.einsum("bld,pdi->bipl", x, self.B)
        A, dt = self._system()
        position = oscillator_scan(force_B2PL, A, dt, discretization=self.discretization, reverse=reverse)
        return self._read(position, "bipl,dpi->bld") + self.D * x

    def init_state(self, batch_size: int) -> LinOSSState:
        """Returns oscillators at rest."""
        rest = self.A_diag.new_zeros(batch_size, 2, len(self.A_diag))
        return LinOSSState(rest, rest)

    def step(self, x_t: Tensor, state: LinOSSState) -> tuple[Tensor, LinOSSState]:
        """Maps one position.

        Shapes:
            x_t [B, D] -> y_t [B, D], the next state.

        Raises:
            ShapeError: when x_t has another width or number of axes.

        Cost: O(B P D), whatever came before.
        """
        check_axes("LinOSS", x_t, "[B, D]", D=self.d_model)
        force_B2P = torch.einsum("bd,pdi->bip", x_t, self.B)
        A, dt = self._system()
        moved = oscillator_step(force_B2P, *state, A, dt, discretization=self.discretization)
        return self._read(moved[1], "bip,dpi->bd") + self.D * x_t, LinOSSState(*moved)

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters that weight decay would only distort."""
        return {"A_diag", "D", "steps"}

    def symmetries(self) -> list[Symmetry]:
        """Declares that positions have no unit and no phase, and time no unit: only dt^2 A and dt^2 B C count."""
        oscillators = len(self.A_diag)
        return [
            Symmetry(
                name="linoss.position_unit",
                dimension=2 * oscillators,
                generators=_position_unit_tangents,
                transform=_change_position_unit,
            ),
            Symmetry(name="linoss.time_unit", dimension=oscillators, generators=_time_unit_tangents),
        ]

    def _system(self) -> tuple[Tensor, Tensor]:
        return self.A_diag.relu(), self.steps.sigmoid()

    def _read(self, position: Tensor, axes: str) -> Tensor:
        # The real part of a complex product: the imaginary parts of both count negatively.
        sign = self.C.new_tensor([1.0, -1.0])
        return torch.einsum(axes, position, self.C * sign)


def _change_position_unit(params: Parameters, t: Tensor) -> dict[str, Tensor]:
    growth, phase = t.chunk(2)
    factor = torch.polar(growth.exp(), phase)
    B, C = torch.view_as_complex(params["B"].contiguous()), torch.view_as_complex(params["C"].contiguous())
    return {
        **params,
        "B": torch.view_as_real(B * factor.unsqueeze(-1)),
        "C": torch.view_as_real(C / factor),
    }


def _position_unit_tangents(params: Parameters) -> Iterator[dict[str, Tensor]]:
    for turn in (_same, _quarter_turn):
        for p in range(len(params["A_diag"])):
            B, C = torch.zeros_like(params["B"]), torch.zeros_like(params["C"])
            B[p], C[:, p] = turn(params["B"][p]), -turn(params["C"][:, p])
            yield {"B": B, "C": C}


def _time_unit_tangents(params: Parameters) -> Iterator[dict[str, Tensor]]:
    for p in range(len(params["A_diag"])):
        steps, A, B = (torch.zeros_like(params[name]) for name in ("steps", "A_diag", "B"))
        steps[p] = 1 / (1 - params["steps"][p].sigmoid())
        A[p], B[p] = -2 * params["A_diag"][p], -2 * params["B"][p]
        yield {"steps": steps, "A_diag": A, "B": B}


def _same(x: Tensor) -> Tensor:
    return x


def _quarter_turn(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1], x[..., 0]], dim=-1)
