"""The changes of basis that leave an SS2D mixer unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to the mixer. E d_inner, N d_state, R dt_rank, k one of its directions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["affine_scale", "channel_scale", "step_basis", "unit_scale"]


def channel_scale(d_inner: int, *, conv: str) -> Symmetry:
    """Declares that channel e of the input projection may grow by a factor if its convolution taps shrink by it.

    Args:
        d_inner: E; rows 0 ... E-1 of ``in_proj`` feed the convolution, those after them the gate.
        conv: name of the convolution's weight.
    """
    name = "in_proj.weight"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = torch.cat([t.exp(), t.new_ones(len(params[name]) - d_inner)])
        taps = params[conv] * (-t).exp().reshape(-1, 1, 1, 1)
        return {**params, name: params[name] * gain.unsqueeze(-1), conv: taps}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(d_inner):
            yield {name: _only(params[name], channel), conv: -_only(params[conv], channel)}

    return Symmetry(name="ss2d.channel_scale", dimension=d_inner, generators=generators, transform=transform)


def unit_scale(d_state: int, dt_rank: int, *, direction: int) -> Symmetry:
    """Declares that state n of a direction may change its unit: B_n grows by a factor, C_n shrinks by it.

    Args:
        d_state: N.
        dt_rank: R; rows of a direction's projection are R step features, then N of B, then N of C.
        direction: k.
    """
    name = "x_proj_weight"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = torch.ones_like(params[name][..., :1])
        gain[direction, dt_rank:, 0] = torch.cat([t.exp(), (-t).exp()])
        return {**params, name: params[name] * gain}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for state in range(dt_rank, dt_rank + d_state):
            grown = _only(params[name], (direction, state))
            yield {name: grown - _only(params[name], (direction, state + d_state))}

    return Symmetry(name=f"ss2d.BC_scale_{direction}", dimension=d_state, generators=generators, transform=transform)


def step_basis(dt_rank: int, *, direction: int) -> Symmetry:
    """Declares that a direction's R step features may change basis: only the product of their projections is used.

    Args:
        dt_rank: R; the first R rows of the direction's projection make the step features.
        direction: k.
    """
    inner, outer = "x_proj_weight", "dt_projs_weight"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        log_basis = t.reshape(dt_rank, dt_rank)
        features, steps = params[inner].clone(), params[outer].clone()
        features[direction, :dt_rank] = torch.linalg.matrix_exp(log_basis) @ features[direction, :dt_rank]
        steps[direction] = steps[direction] @ torch.linalg.matrix_exp(-log_basis)
        return {**params, inner: features, outer: steps}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for row in range(dt_rank):
            for column in range(dt_rank):
                features, steps = torch.zeros_like(params[inner]), torch.zeros_like(params[outer])
                features[direction, row] = params[inner][direction, column]
                steps[direction, :, column] = -params[outer][direction, :, row]
                yield {inner: features, outer: steps}

    return Symmetry(name=f"ss2d.dt_basis_{direction}", dimension=dt_rank**2, generators=generators, transform=transform)


def affine_scale(norm: str, reader: str, dimension: int) -> Symmetry:
    """Declares that gain and bias of a norm may grow if the columns of the linear map that alone reads it shrink.

    Args:
        norm: name of a norm with ``weight`` and ``bias`` [dimension].
        reader: name of the weight [out, dimension].
        dimension: channels of the norm.
    """
    gain, shift = f"{norm}.weight", f"{norm}.bias"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        grown = {name: params[name] * t.exp() for name in (gain, shift)}
        return {**params, **grown, reader: params[reader] * (-t).exp()}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(dimension):
            column = (slice(None), channel)
            grown = {name: _only(params[name], channel) for name in (gain, shift)}
            yield {**grown, reader: -_only(params[reader], column)}

    return Symmetry(name=f"{norm}_into_{reader}", dimension=dimension, generators=generators, transform=transform)


def _only(tensor: Tensor, index: int | tuple[int | slice, ...]) -> Tensor:
    only = torch.zeros_like(tensor)
    only[index] = tensor[index]
    return only
