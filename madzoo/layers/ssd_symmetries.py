"""The changes of scale and origin that leave an SSD block unchanged: what one tensor gains another one gives.

Parameter names are relative to the block. A channel i owns the slice ``start + i`` along one axis of a tensor.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["Slices", "conv_scale", "norm_gain", "reciprocal_scale", "step_shift"]


class Slices(NamedTuple):
    """Says which slices of a tensor the channels own: channel i has number ``start + i`` along ``axis``."""

    axis: int = 0
    start: int = 0


def reciprocal_scale(
    name: str, dimension: int, *, grow: Mapping[str, Slices], shrink: Mapping[str, Slices]
) -> Symmetry:
    """Declares that the slices of channel i in some tensors may grow by a factor if those in others shrink by it.

    Args:
        name: of the symmetry.
        dimension: number of channels, each with its own factor.
        grow: the tensors that grow, and where channel 0 begins in them.
        shrink: the tensors that shrink.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        grown = {name: _scale(params[name], slices, t.exp()) for name, slices in grow.items()}
        return {**params, **grown, **{name: _scale(params[name], at, (-t).exp()) for name, at in shrink.items()}}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(dimension):
            yield {name: _only(params[name], slices, channel) for name, slices in grow.items()} | {
                name: -_only(params[name], slices, channel) for name, slices in shrink.items()
            }

    return Symmetry(name=name, dimension=dimension, generators=generators, transform=transform)


def conv_scale(name: str, channels: int, *, start: int, in_proj_bias: bool) -> Symmetry:
    """Declares that a channel of ``in_proj`` may grow if its taps in the depthwise ``conv1d`` shrink.

    Before its first position a convolution sees zeros, so the bias of ``in_proj`` takes part.

    Args:
        name: of the symmetry.
        channels: number of channels of the convolution.
        start: the row of ``in_proj`` that makes the first of them.
        in_proj_bias: whether ``in_proj`` has a bias.
    """
    rows = Slices(start=start)
    grow = {"in_proj.weight": rows} | ({"in_proj.bias": rows} if in_proj_bias else {})
    return reciprocal_scale(name, channels, grow=grow, shrink={"conv1d.weight": Slices()})


def norm_gain(name: str, channels: int, *, start: int = 0) -> Symmetry:
    """Declares that a gain of ``norm`` may grow if the column of ``out_proj`` that alone reads it shrinks.

    Args:
        name: of the symmetry.
        channels: number of gains.
        start: the column of ``out_proj`` that reads the first of them.
    """
    columns = Slices(axis=1, start=start)
    return reciprocal_scale(name, channels, grow={"norm.weight": Slices()}, shrink={"out_proj.weight": columns})


def step_shift(name: str, heads: int, *, starts: tuple[int, ...]) -> Symmetry:
    """Declares that the step size of a head has two biases, in ``in_proj`` and ``dt_bias``: only their sum is used.

    Args:
        name: of the symmetry.
        heads: number of heads.
        starts: for each direction, the row of ``in_proj`` that makes the step of the first head.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        bias = params["in_proj.bias"]
        after = [len(bias) - start - heads for start in starts]
        shift = sum(F.pad(t, (start, rest)) for start, rest in zip(starts, after, strict=True))
        return {**params, "in_proj.bias": bias + shift, "dt_bias": params["dt_bias"] - t}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for head in range(heads):
            gain, loss = torch.zeros_like(params["in_proj.bias"]), torch.zeros_like(params["dt_bias"])
            gain[[start + head for start in starts]] = 1
            loss[head] = -1
            yield {"in_proj.bias": gain, "dt_bias": loss}

    return Symmetry(name=name, dimension=heads, generators=generators, transform=transform)


def _scale(tensor: Tensor, slices: Slices, gain: Tensor) -> Tensor:
    after = tensor.shape[slices.axis] - slices.start - len(gain)
    whole = torch.cat([gain.new_ones(slices.start), gain, gain.new_ones(after)])
    return tensor * whole.reshape([-1 if axis == slices.axis else 1 for axis in range(tensor.dim())])


def _only(tensor: Tensor, slices: Slices, channel: int) -> Tensor:
    only = torch.zeros_like(tensor)
    index = slices.start + channel
    only.select(slices.axis, index).copy_(tensor.select(slices.axis, index))
    return only
