"""The changes of basis that leave softmax attention unchanged, as :class:`~madzoo.symmetry.Symmetry` records."""

from collections.abc import Mapping

from madzoo.gauges import COLUMNS, Slices, basis, scale
from madzoo.shift_gauges import shift
from madzoo.symmetry import Symmetry

__all__ = ["attention_symmetries"]


def attention_symmetries(
    name: str,
    *,
    heads: int,
    size: int,
    query: Mapping[str, Slices],
    key: Mapping[str, Slices],
    value: Mapping[str, Slices],
    out: str,
    out_bias: str | None,
) -> list[Symmetry]:
    """Declares that each head may name its coordinates as it likes, where it compares and where it reads.

    All keys of a query may be shifted alike, which the softmax does not see; and weights sum to one, so that a shift of
    all values is one of the output.

    Args:
        name: of the family.
        heads: of ``size`` channels each.
        size: channels of a head.
        query, key, value: the rows that make them, weights first and biases, if there are any, after them.
        out: weight of the map that reads what the heads give.
        out_bias: its bias, or None.
    """
    width = heads * size
    found = [
        basis(f"{name}.query_basis", size, forward=query, backward=key, groups=heads),
        basis(f"{name}.value_basis", size, forward=value, backward={out: COLUMNS}, groups=heads),
    ]
    for bias, rows in list(key.items())[1:]:
        found.append(scale(f"{name}.key_bias", width, grow={bias: rows._replace(additive=True)}, shrink={}))
    for bias, rows in list(value.items())[1:] if out_bias else ():
        found.append(shift(f"{name}.value_bias", width, up={bias: rows}, readers={out: str(out_bias)}))
    return found
