"""The changes of basis that leave PlainMamba's parts unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

N d_state, R dt_rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["relu_scale", "shift_into", "unit_scale"]


def unit_scale(d_state: int, dt_rank: int) -> Symmetry:
    """Declares that state n may change its unit: B_n grows with what moves add to it, C_n shrinks.

    Args:
        d_state: N.
        dt_rank: R; rows of ``x_proj`` are R step features, then N of B, then N of C.
    """
    maps, moves = "x_proj.weight", "direction_Bs"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = torch.cat([t.new_ones(dt_rank), t.exp(), (-t).exp()])
        return {**params, maps: params[maps] * gain.unsqueeze(-1), moves: params[moves] * t.exp()}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for state in range(d_state):
            row = dt_rank + state
            yield {
                maps: _only(params[maps], row) - _only(params[maps], row + d_state),
                moves: _only(params[moves], (slice(None), state)),
            }

    return Symmetry(name="plain_mamba.BC_scale", dimension=d_state, generators=generators, transform=transform)


def shift_into(shift: str, reader: str, dimension: int) -> Symmetry:
    """Declares that the bias of a norm may change if that of the linear map which alone reads it makes up for it.

    Args:
        shift: name of the norm's bias [dimension].
        reader: name of the linear map, which has a bias.
        dimension: channels of the norm.
    """
    weight, bias = f"{reader}.weight", f"{reader}.bias"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        return {**params, shift: params[shift] + t, bias: params[bias] - params[weight] @ t}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(dimension):
            moved = torch.zeros_like(params[shift])
            moved[channel] = 1
            yield {shift: moved, bias: -params[weight][:, channel]}

    return Symmetry(name=f"{shift}_into_{reader}", dimension=dimension, generators=generators, transform=transform)


def relu_scale(norm: str, reader: str, dimension: int) -> Symmetry:
    """Declares that a normed channel may grow before a ReLU if the taps of the convolution that reads it shrink.

    Args:
        norm: name of a norm with ``weight`` and ``bias`` [dimension].
        reader: name of the convolution's weight [out, dimension, side, side].
        dimension: channels of the norm.
    """
    gain, shift = f"{norm}.weight", f"{norm}.bias"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        grown = {name: params[name] * t.exp() for name in (gain, shift)}
        return {**params, **grown, reader: params[reader] * (-t).exp().reshape(1, -1, 1, 1)}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(dimension):
            grown = {name: _only(params[name], channel) for name in (gain, shift)}
            yield {**grown, reader: -_only(params[reader], (slice(None), channel))}

    return Symmetry(name=f"{norm}_into_{reader}", dimension=dimension, generators=generators, transform=transform)


def _only(tensor: Tensor, index: int | tuple[int | slice, ...]) -> Tensor:
    only = torch.zeros_like(tensor)
    only[index] = tensor[index]
    return only
