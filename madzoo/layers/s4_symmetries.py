"""The changes of unit that leave the kernels of S4 unchanged, as :class:`~madzoo.symmetry.Symmetry` records.

Parameter names are relative to a kernel. H channels, N conjugate pairs, S systems that the channels share in turn.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from madzoo.gauges import Places, Slices, diagonal_term, joined, quarter_turn, scale
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["kernel_symmetries", "product_scale"]


def kernel_symmetries(*, channels: int, systems: int, pairs: int, softplus: bool, low_rank: bool) -> list[Symmetry]:
    """Declares that time has no unit in any system, and its states none, nor a phase.

    With a low-rank part the states can be turned, but not grown one by one, for it mixes them.

    Args:
        channels: H.
        systems: S.
        pairs: N.
        softplus: whether the steps are softplus of ``inv_dt``, not its exponential.
        low_rank: whether the state matrix has a low-rank part.
    """
    shares = [Slices(start=j * systems) for j in range(channels // systems)]
    found = [_time_unit(systems, shares, softplus=softplus, low_rank=low_rank)]
    if low_rank:
        columns = [slices._replace(axis=1) for slices in shares]
        found.append(scale("s4.state_unit", systems, grow={"B": Slices(axis=1)}, shrink={"C": columns}))
        return [*found, _pair_changes("s4.state_phase", systems, pairs, turns=(True,), turned=("B", "P"))]
    return [*found, _pair_changes("s4.state_basis", systems, pairs, turns=(False, True), turned=("B",))]


def product_scale(channels: int, *, kernels: Sequence[tuple[str, str]], outputs: int, directions: int) -> Symmetry:
    """Declares that of two kernels, whose product is all that counts, one may grow and the other shrink.

    Args:
        channels: H.
        kernels: the pair of names of their output vectors C [directions * outputs, H, N, 2].
        outputs: kernels of a channel and direction; each has its own scale.
        directions: which share it.
    """

    def places(name: str, output: int) -> Places:
        return {name: [Slices(axis=1, only=(0, output + d * outputs)) for d in range(directions)]}

    parts = [
        scale("s4nd.axis_scale", channels, grow=places(first, output), shrink=places(second, output))
        for first, second in kernels
        for output in range(outputs)
    ]
    return joined("s4nd.axis_scale", parts)


def _time_unit(systems: int, shares: Sequence[Slices], *, softplus: bool, low_rank: bool) -> Symmetry:
    """Declares dt -> c dt, A -> A / c, B -> B / c, and for the low-rank part P -> P / sqrt(c)."""
    shrink: dict[str, Slices] = {"A_real": Slices(additive=True), "A_imag": Slices(), "B": Slices(axis=1)}
    if low_rank:
        shrink["P"] = Slices(axis=1, power=0.5)
    steps = [slices._replace(additive=True) for slices in shares]
    if not softplus:
        return scale("s4.time_unit", systems, grow={"inv_dt": steps}, shrink=shrink)
    rest = scale("s4.time_unit", systems, grow={}, shrink=shrink)

    def terms(params: Parameters) -> Iterator[Term]:
        assert rest.terms is not None
        yield from rest.terms(params)
        growth = F.softplus(params["inv_dt"]) / params["inv_dt"].sigmoid()  # by which log dt grows by 1
        for slices in shares:
            yield diagonal_term("inv_dt", growth, slices, systems, 1.0)

    return from_terms("s4.time_unit", systems, terms)


def _pair_changes(name: str, systems: int, pairs: int, *, turns: Sequence[bool], turned: Sequence[str]) -> Symmetry:
    """Declares that each pair of each system may grow or turn in the tensors ``turned``, and in C the other way."""

    def terms(params: Parameters) -> Iterator[Term]:
        for number, turn in enumerate(turns):
            for key in (*turned, "C"):
                weight = -1.0 if key == "C" else 1.0
                values = quarter_turn(params[key]) if turn else params[key]
                yield _pair_term(key, values, systems, weight, first=number * systems * pairs)

    return from_terms(name, len(turns) * systems * pairs, terms)


def _pair_term(key: str, values: Tensor, systems: int, weight: float, *, first: int) -> Term:
    """Adds ``weight`` times what belongs to one pair of one system; channels, or systems, lie along axis 1."""
    rows = values.movedim(1, 0)  # [H or S, ..., N, 2]
    count, pairs = len(rows), values.shape[-2]
    marks = torch.eye(pairs, dtype=values.dtype).reshape(pairs, *[1] * (rows.ndim - 3), pairs, 1)
    number = torch.arange(count * pairs)
    return Term(
        parameter=key,
        axis=1,
        rows=number // pairs,
        coefficients=first + (number // pairs % systems) * pairs + number % pairs,
        source=(rows.unsqueeze(1) * marks).flatten(0, 1),
        source_rows=number,
        weights=torch.full((len(number),), weight, dtype=torch.float64),
    )
