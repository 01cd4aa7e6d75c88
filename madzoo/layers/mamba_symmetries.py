"""The changes of basis that leave a Mamba-1 block unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to the block that holds the projections. E d_inner, N d_state, R dt_rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry

__all__ = ["conv_scale", "dt_basis", "gain_scale", "input_output_scale"]


def conv_scale(d_inner: int, *, convs: tuple[str, ...], in_proj_bias: bool = False) -> Symmetry:
    """Declares that channel e of the input projection may grow by a factor if its convolution taps shrink by it.

    Args:
        d_inner: E; rows 0 ... E-1 of ``in_proj`` feed the convolutions.
        convs: names of the convolutions that read them, one per direction.
        in_proj_bias: whether ``in_proj`` has a bias.
    """
    grow = ["in_proj.weight"] + ["in_proj.bias"] * in_proj_bias
    shrink = [f"{name}.weight" for name in convs]

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = torch.cat([t.exp(), torch.ones_like(t)])  # the second half of in_proj is the gate
        grown = {name: _scale_rows(params[name], gain) for name in grow}
        return {**params, **grown, **{name: _scale_rows(params[name], (-t).exp()) for name in shrink}}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(d_inner):
            yield {name: _only_row(params[name], channel) for name in grow} | {
                name: -_only_row(params[name], channel) for name in shrink
            }

    return Symmetry(name="mamba.conv_scale", dimension=d_inner, generators=generators, transform=transform)


def input_output_scale(d_state: int, dt_rank: int, *, x_proj: str) -> Symmetry:
    """Declares that state n may change its unit: B_n grows by a factor, C_n shrinks by it.

    Args:
        d_state: N.
        dt_rank: R; rows of x_proj are R step features, then N of B, then N of C.
        x_proj: name of the projection.
    """
    name = f"{x_proj}.weight"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        gain = torch.cat([t.new_ones(dt_rank), t.exp(), (-t).exp()])
        return {**params, name: _scale_rows(params[name], gain)}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for state in range(dt_rank, dt_rank + d_state):
            yield {name: _only_row(params[name], state) - _only_row(params[name], state + d_state)}

    return Symmetry(name=f"mamba.{x_proj}_BC_scale", dimension=d_state, generators=generators, transform=transform)


def dt_basis(dt_rank: int, *, x_proj: str, dt_proj: str) -> Symmetry:
    """Declares that the R step features may change basis: only the product of their two projections is used.

    Args:
        dt_rank: R; the first R rows of x_proj make the step features.
        x_proj: name of the projection to them.
        dt_proj: name of the projection from them.
    """
    inner, outer = f"{x_proj}.weight", f"{dt_proj}.weight"

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        log_basis = t.reshape(dt_rank, dt_rank)
        features = torch.linalg.matrix_exp(log_basis) @ params[inner][:dt_rank]
        steps = params[outer] @ torch.linalg.matrix_exp(-log_basis)
        return {**params, inner: torch.cat([features, params[inner][dt_rank:]]), outer: steps}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for row in range(dt_rank):
            for column in range(dt_rank):
                features, steps = torch.zeros_like(params[inner]), torch.zeros_like(params[outer])
                features[row] = params[inner][column]
                steps[:, column] = -params[outer][:, row]
                yield {inner: features, outer: steps}

    return Symmetry(name=f"mamba.{dt_proj}_basis", dimension=dt_rank**2, generators=generators, transform=transform)


def gain_scale(gain: str, reader: str, dimension: int) -> Symmetry:
    """Declares that a gain may grow if the columns of the linear map that alone reads it shrink.

    Args:
        gain: name of the gain [dimension], of a norm.
        reader: name of the weight [out, dimension].
        dimension: number of gains.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        return {**params, gain: params[gain] * t.exp(), reader: params[reader] * (-t).exp()}

    def generators(params: Parameters) -> Iterator[dict[str, Tensor]]:
        for channel in range(dimension):
            shrink = torch.zeros_like(params[reader])
            shrink[:, channel] = -params[reader][:, channel]
            yield {gain: _only_row(params[gain], channel), reader: shrink}

    return Symmetry(name=f"{gain}_into_{reader}", dimension=dimension, generators=generators, transform=transform)


def _scale_rows(tensor: Tensor, gain: Tensor) -> Tensor:
    return tensor * gain.reshape(-1, *[1] * (tensor.dim() - 1))


def _only_row(tensor: Tensor, row: int) -> Tensor:
    only = torch.zeros_like(tensor)
    only[row] = tensor[row]
    return only
