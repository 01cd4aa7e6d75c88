"""The changes of origin and of the norm's gain that leave an SSD block unchanged: what one tensor gains another gives.

Parameter names are relative to the block.
"""

from madzoo.gauges import Slices, offset, scale
from madzoo.symmetry import Symmetry

__all__ = ["norm_gain", "step_shift"]


def norm_gain(name: str, channels: int, *, start: int = 0) -> Symmetry:
    """Declares that a gain of ``norm`` may grow if the column of ``out_proj`` that alone reads it shrinks.

    Args:
        name: of the symmetry.
        channels: number of gains.
        start: the column of ``out_proj`` that reads the first of them.
    """
    columns = Slices(axis=1, start=start)
    return scale(name, channels, grow={"norm.weight": Slices()}, shrink={"out_proj.weight": columns})


def step_shift(name: str, heads: int, *, starts: tuple[int, ...]) -> Symmetry:
    """Declares that the step size of a head has two biases, in ``in_proj`` and ``dt_bias``: only their sum is used.

    Args:
        name: of the symmetry.
        heads: number of heads.
        starts: for each direction, the row of ``in_proj`` that makes the step of the first head.
    """
    rows = [Slices(start=start) for start in starts]
    return offset(name, heads, up={"in_proj.bias": rows}, down={"dt_bias": Slices()})
