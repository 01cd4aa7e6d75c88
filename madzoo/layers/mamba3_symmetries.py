"""The changes of unit that leave a Mamba-3 block unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to the block. E d_inner, N d_state, S rotated pairs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["input_output_scale", "value_scale"]

INPUT, OUTPUT = ("B_norm.weight", "B_bias"), ("C_norm.weight", "C_bias")  # each with N along its last axis


def input_output_scale(d_state: int, pairs: int) -> Symmetry:
    """Declares that a state may change its unit: B_n grows by a factor, C_n shrinks by it.

    The two states of a pair that turns share one unit, for a turn would mix two different ones.

    Args:
        d_state: N.
        pairs: S; the pairs (2s, 2s + 1) with s < S turn.
    """
    dimension = d_state - pairs

    def spread(t: Tensor) -> Tensor:
        return torch.cat([t[:pairs].repeat_interleave(2), t[pairs:]])

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = spread(t).exp()
        grown = {name: params[name] * gain for name in INPUT}
        return {**params, **grown, **{name: params[name] / gain for name in OUTPUT}}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for unit in torch.eye(dimension, dtype=params[INPUT[0]].dtype, device=params[INPUT[0]].device):
            grow = {name: params[name] * spread(unit) for name in INPUT}
            yield grow | {name: -params[name] * spread(unit) for name in OUTPUT}

    return Symmetry(name="mamba3.BC_scale", dimension=dimension, generators=generators, transform=transform)


def value_scale(d_inner: int) -> Symmetry:
    """Declares that an inner channel may change its unit: its row of in_proj grows, its column of out_proj shrinks.

    The scan and the skip are linear in the channel, and the gate multiplies it; a norm behind them would not be linear.

    Args:
        d_inner: E; rows E ... 2 E - 1 of in_proj make the channels.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        rows = params["in_proj.weight"]
        gain = torch.cat([torch.ones_like(t), t.exp(), t.new_ones(len(rows) - 2 * d_inner)])
        shrunk = params["out_proj.weight"] * (-t).exp()
        return {**params, "in_proj.weight": rows * gain.unsqueeze(-1), "out_proj.weight": shrunk}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        rows, columns = params["in_proj.weight"], params["out_proj.weight"]
        for channel in range(d_inner):
            grow, shrink = torch.zeros_like(rows), torch.zeros_like(columns)
            grow[d_inner + channel] = rows[d_inner + channel]
            shrink[:, channel] = -columns[:, channel]
            yield {"in_proj.weight": grow, "out_proj.weight": shrink}

    return Symmetry(name="mamba3.value_scale", dimension=d_inner, generators=generators, transform=transform)
