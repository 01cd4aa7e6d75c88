"""ReLU units that do not bend on a sample: dead ones, and ones that are always active.

A dead unit passes nothing on: neither what writes it nor the columns that read it move the output. Always active ones
are linear together: they may change basis, and their biases move on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.gauges import Slices, matrix_term
from madzoo.geometry.flow import Edge, Flow, Reader, Value, Writer
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["InactiveUnits", "inactive_units"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InactiveUnits:
    """What a sample leaves unbent.

    Attributes:
        dead, always_active: units, over all ReLUs; a channel of a convolution is one unit.
        patterns: distinct activation patterns among the samples, over all units and positions.
        masks: by parameter, True where dead units hide an element.
        symmetries: those that always active units add.
    """

    dead: int
    always_active: int
    patterns: int
    masks: dict[str, Tensor]
    symmetries: tuple[Symmetry, ...]


def inactive_units(flow: Flow, model: nn.Module) -> InactiveUnits:
    """Returns the units that do not bend on the samples a flow was traced on.

    Args:
        flow: of the model on the whole sample.
        model: for the shapes of its parameters.
    """
    masks: dict[str, Tensor] = {}
    symmetries: list[Symmetry] = []
    dead_units = active_units = 0
    for edge in (e for e in flow.edges if e.out.index in flow.signs):
        positive = _by_channel(flow.signs[edge.out.index], edge.out)
        dead, active = ~positive.any(1), positive.all(1)
        dead_units, active_units = dead_units + int(dead.sum()), active_units + int(active.sum())
        if dead.any():
            for name, slices in [*_writes(flow, edge.ins[0]), *_reads(flow, edge.out)]:
                _hide(masks, name, model.get_parameter(name), slices, dead)
        if active.any():
            symmetries += _linear_units(flow, edge, active.nonzero().flatten())
    return InactiveUnits(
        dead=dead_units,
        always_active=active_units,
        patterns=_patterns(flow),
        masks=masks,
        symmetries=tuple(symmetries),
    )


def _by_channel(positive: Tensor, value: Value) -> Tensor:
    return positive.movedim(value.axis, 0).reshape(value.width, -1)


def _hide(masks: dict[str, Tensor], name: str, parameter: Tensor, slices: Slices, dead: Tensor) -> None:
    mask = masks.setdefault(name, torch.zeros(parameter.shape, dtype=torch.bool))
    rows = slices.rows(len(dead))[dead.repeat_interleave(slices.block)]
    mask.movedim(slices.axis, 0)[rows] = True


def _consumers(flow: Flow, value: Value) -> int:
    edges = sum(value.index in {v.index for v in e.ins} for e in flow.edges)
    maps = sum(r.value.index == value.index for r in flow.readers)
    norms = sum(n.value.index == value.index for n in flow.norms)
    return edges + maps + norms + (value.index in flow.stopped)


def _writes(flow: Flow, value: Value) -> Iterator[tuple[str, Slices]]:
    """Yields what writes a value that is used once, and what writes the convolution before its batch norm."""
    if _consumers(flow, value) != 1:
        return
    for writer in flow.writers:
        if writer.out.index == value.index:
            yield from writer.parameters.items()
    for norm in flow.norms:
        if norm.out.index == value.index and norm.kind == "batch":
            yield from ((name, Slices()) for name in (norm.gain, norm.bias) if name)
            yield from _writes(flow, norm.value)
    for edge in flow.edges:
        if edge.out.index == value.index and edge.kind == "same":
            yield from _writes(flow, edge.ins[0])


def _reads(flow: Flow, value: Value) -> Iterator[tuple[str, Slices]]:
    """Yields what reads a value, directly or through operations on single channels."""
    for reader in flow.readers:
        if reader.value.index == value.index:
            yield reader.weight, reader.slices
    for edge in flow.edges:
        if [v.index for v in edge.ins] == [value.index]:
            yield from _reads(flow, edge.out)


def _linear_units(flow: Flow, edge: Edge, units: Tensor) -> Iterator[Symmetry]:
    """Yields what units that never bend have in common, where full maps alone write and read them."""
    writers = [w for w in flow.writers if w.out.index == edge.ins[0].index and w.full]
    readers = [r for r in flow.readers if r.value.index == edge.out.index and r.full]
    plain = _consumers(flow, edge.ins[0]) == 1 and len(readers) == _consumers(flow, edge.out) > 0
    if not (writers and plain):
        return
    if len(units) > 1:
        yield _mixed_units(writers[0], readers, units)
    if writers[0].bias and all(r.takes_shift for r in readers):
        yield _moved_biases(writers[0].bias, readers, units)


def _mixed_units(writer: Writer, readers: list[Reader], units: Tensor) -> Symmetry:
    i, j = units.repeat_interleave(len(units)), units.repeat(len(units))
    i, j = i[i != j], j[i != j]

    def terms(params: Parameters) -> Iterator[Term]:
        for name, slices in writer.parameters.items():
            yield matrix_term(name, params[name], slices, i, j)
        for reader in readers:
            yield matrix_term(reader.weight, params[reader.weight], reader.slices, j, i, weight=-1.0)

    return from_terms("always_active.basis", len(i), terms)


def _moved_biases(bias: str, readers: list[Reader], units: Tensor) -> Symmetry:
    every = torch.arange(len(units))

    def terms(params: Parameters) -> Iterator[Term]:
        one = torch.ones(len(units), dtype=torch.float64)
        zero = torch.zeros_like(every)
        unit = torch.ones(1, dtype=torch.float64)
        yield Term(parameter=bias, axis=0, rows=units, coefficients=every, source=unit, source_rows=zero, weights=one)
        for reader in readers:
            weight = params[reader.weight].movedim(reader.slices.axis, 0)
            taken = weight.unflatten(0, (-1, reader.slices.block)).sum(1)[units]
            taken = taken.reshape(len(units), reader.rows, -1).sum(-1)
            outputs = taken.shape[1]
            yield Term(
                parameter=reader.bias or "",
                axis=0,
                rows=torch.arange(outputs).repeat(len(units)),
                coefficients=every.repeat_interleave(outputs),
                source=taken.flatten(),
                source_rows=torch.arange(taken.numel()),
                weights=-torch.ones(taken.numel(), dtype=torch.float64),
            )

    return from_terms("always_active.bias", len(units), terms)


def _patterns(flow: Flow) -> int:
    """Counts distinct rows of signs by a random number for each: two patterns share one with probability zero."""
    random = torch.Generator().manual_seed(0)
    total: Tensor | None = None
    for positive in flow.signs.values():
        bits = positive.flatten(1).double()
        code = bits @ torch.randn(bits.shape[1], dtype=torch.float64, generator=random)
        total = code if total is None else total + code if len(total) == len(code) else None
        if total is None:
            return 0
    return 0 if total is None else len((total / total.abs().max().clamp(min=1)).round(decimals=12).unique())
