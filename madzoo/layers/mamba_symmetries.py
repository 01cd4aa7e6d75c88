"""The changes of basis that leave a Mamba-1 block unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to the block that holds the projections. E d_inner, N d_state, R dt_rank.
"""

from collections.abc import Mapping

from madzoo.gauges import Places, Slices, basis, offset, rows_of, scale
from madzoo.symmetry import Symmetry

__all__ = ["conv_scale", "dt_basis", "input_output_scale", "output_scale", "skip_shift"]


def conv_scale(name: str, channels: int, *, convs: Mapping[str, int], in_proj_bias: bool, start: int = 0) -> Symmetry:
    """Declares that a channel of ``in_proj`` may grow by a factor if its taps in the convolutions shrink by it.

    Outside the sequence a convolution sees zeros, so the bias of ``in_proj`` takes part.

    Args:
        name: of the symmetry.
        channels: of the convolutions.
        convs: weights of the depthwise convolutions that read them, one per direction, and the tap row of channel 0.
        in_proj_bias: whether ``in_proj`` has a bias.
        start: the row of ``in_proj`` that makes channel 0.
    """
    grow = rows_of("in_proj.weight", bias=in_proj_bias, start=start)
    return scale(name, channels, grow=grow, shrink={conv: Slices(start=row) for conv, row in convs.items()})


def input_output_scale(d_state: int, dt_rank: int, *, x_proj: str, added: Places | None = None) -> Symmetry:
    """Declares that state n may change its unit: B_n grows by a factor, C_n shrinks by it.

    Args:
        d_state: N.
        dt_rank: R; rows of x_proj are R step features, then N of B, then N of C.
        x_proj: name of the projection.
        added: what is added to B.
    """
    weight = f"{x_proj}.weight"
    grow, shrink = {weight: Slices(start=dt_rank), **(added or {})}, {weight: Slices(start=dt_rank + d_state)}
    return scale(f"mamba.{x_proj}_BC_scale", d_state, grow=grow, shrink=shrink)


def dt_basis(dt_rank: int, *, x_proj: str, dt_proj: str) -> Symmetry:
    """Declares that the R step features may change basis: only the product of their two projections is used.

    Args:
        dt_rank: R; the first R rows of x_proj make the step features.
        x_proj: name of the projection to them.
        dt_proj: name of the projection from them.
    """
    forward, backward = {f"{x_proj}.weight": Slices()}, {f"{dt_proj}.weight": Slices(axis=1)}
    return basis(f"mamba.{dt_proj}_basis", dt_rank, forward=forward, backward=backward)


def output_scale(
    d_state: int, dt_rank: int, *, d_inner: int, directions: Mapping[str, str], out_proj: str = "out_proj.weight"
) -> Symmetry:
    """Declares that all that the scans give may grow, C and D, if the columns of the output projection shrink.

    Args:
        d_state: N.
        dt_rank: R.
        d_inner: E; the first E columns of ``out_proj`` read the scans.
        directions: for each scan the name of the projection to its C, and that of its D.
        out_proj: name of the weight.
    """
    grow: dict[str, Slices] = {
        f"{x_proj}.weight": Slices(start=dt_rank + d_state, block=d_state) for x_proj in directions
    }
    skips = {skip: Slices(block=d_inner) for skip in directions.values()}
    return scale("mamba.output_scale", 1, grow=grow | skips, shrink={out_proj: Slices(axis=1, block=d_inner)})


def skip_shift(d_inner: int, first: str, second: str) -> Symmetry:
    """Declares that two directions over the same tokens have one skip: only the sum of their D counts.

    Args:
        d_inner: E.
        first, second: names of the D.
    """
    return offset("mamba.skip_shift", d_inner, up={first: Slices()}, down={second: Slices()})
