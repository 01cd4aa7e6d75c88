"""LinOSS: a state space model of forced harmonic oscillators.

Axes: B batch, L length, D channels (d_model), P oscillators (d_state).
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.gauges import Slices, diagonal_term
from madzoo.layers.axes import check_axes
from madzoo.ops.oscillator_scan import DISCRETIZATIONS, oscillator_scan, oscillator_step
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

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
        """Declares that an oscillator's two positions have no basis, and time no unit: only dt^2 A and dt^2 B C count.

        The real and the imaginary position obey the same real law, each driven by its own part of B: any invertible
        matrix may mix them, of which complex factors are but some.
        """
        oscillators = len(self.A_diag)
        return [
            from_terms("linoss.position_basis", 4 * oscillators, _position_basis_terms),
            from_terms("linoss.time_unit", oscillators, _time_unit_terms),
        ]

    def _system(self) -> tuple[Tensor, Tensor]:
        return self.A_diag.relu(), self.steps.sigmoid()

    def _read(self, position: Tensor, axes: str) -> Tensor:
        # The real part of a complex product: the imaginary parts of both count negatively.
        sign = self.C.new_tensor([1.0, -1.0])
        return torch.einsum(axes, position, self.C * sign)


def _position_basis_terms(params: Parameters) -> Iterator[Term]:
    # Generator (p, to, of) adds part ``of`` of B to part ``to``; the output counts the imaginary part negatively.
    B, C, oscillators = params["B"], params["C"], len(params["A_diag"])
    for number, (to, of) in enumerate(itertools.product(range(2), repeat=2)):
        written, read = torch.zeros_like(B), torch.zeros_like(C)
        written[..., to] = B[..., of]
        read[..., of] = C[..., to] if to == of else -C[..., to]
        for key, values, axis, weight in (("B", written, 0, 1.0), ("C", read, 1, -1.0)):
            term = diagonal_term(key, values, Slices(axis=axis), oscillators, weight)
            yield dataclasses.replace(term, coefficients=4 * term.coefficients + number)


def _time_unit_terms(params: Parameters) -> Iterator[Term]:
    # dt = sigmoid(steps), so that d log dt = (1 - dt) d steps; A and B have the unit 1 / time^2.
    oscillators, growth = len(params["steps"]), 1 / (1 - params["steps"].sigmoid())
    yield diagonal_term("steps", growth, Slices(), oscillators, 1.0)
    for name in ("A_diag", "B"):
        yield diagonal_term(name, params[name], Slices(), oscillators, -2.0)
