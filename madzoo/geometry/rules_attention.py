"""The symmetries of attention that is written by hand, read off the flow of one forward pass."""

from collections.abc import Iterator

from madzoo.gauges import Slices, basis, scale
from madzoo.geometry.flow import Flow, Reader, Value, Writer
from madzoo.geometry.heads import AttentionCore, Heads
from madzoo.shift_gauges import shift
from madzoo.symmetry import Symmetry

__all__ = ["core_symmetries"]


def core_symmetries(flow: Flow) -> Iterator[Symmetry]:
    """Yields, of every attention in a flow, the changes of basis of its heads and what its biases share.

    Each head may name its coordinates as it likes where queries meet keys, and where values are read. The softmax does
    not see a shift of all keys, and its weights sum to one, so that a shift of all values is one of the output;
    without a softmax a head's scores and values have a unit in common.
    """
    for core in flow.attentions:
        query, key, values = (part and _writer(flow, part) for part in (core.query, core.key, core.values))
        readers = _readers(flow, core.out)
        if core.query and core.key and query and key:
            yield from _compared(core.query, core.key, query, key, softmax=core.softmax)
        if values and readers:
            yield from _read(core, values, readers)
        if core.query and query and values and not core.softmax:
            grow, shrink = _rows(query, core.query, block=True), _rows(values, core.values, block=True)
            yield scale("attention.head_scale", core.query.heads, grow=grow, shrink=shrink)


def _compared(query: Heads, key: Heads, asks: Writer, answers: Writer, *, softmax: bool) -> Iterator[Symmetry]:
    forward, backward = _rows(asks, query), _rows(answers, key)
    if query.width == key.width:
        size = query.width // query.heads
        yield basis("attention.query_key_basis", size, forward=forward, backward=backward, groups=query.heads)
    if softmax and answers.bias:
        up = {answers.bias: Slices(start=key.start, additive=True)}
        yield scale("attention.key_bias", key.width, grow=up, shrink={})


def _read(core: AttentionCore, values: Writer, readers: list[Reader]) -> Iterator[Symmetry]:
    part, size = core.values, core.values.width // core.values.heads
    columns = {reader.weight: reader.slices for reader in readers}
    yield basis("attention.value_basis", size, forward=_rows(values, part), backward=columns, groups=part.heads)
    biases = {reader.weight: reader.bias for reader in readers if reader.bias and reader.takes_shift}
    if core.softmax and values.bias and len(biases) == len(readers):
        up = {values.bias: Slices(start=part.start)}
        yield shift("attention.value_bias", part.width, up=up, readers=biases, slices=readers[0].slices)


def _rows(writer: Writer, part: Heads, *, block: bool = False) -> dict[str, Slices]:
    """Returns where the channels lie in what writes them: one slice each, or all of a head together."""
    size = part.width // part.heads if block else 1
    return {name: slices._replace(start=part.start, block=size) for name, slices in writer.parameters.items()}


def _writer(flow: Flow, part: Heads) -> Writer | None:
    """Returns the one full map that writes a value for this attention alone."""
    value: Value = part.value
    while flow.consumed[value.index] == 1:
        edge = next((e for e in flow.edges if e.out.index == value.index), None)
        if edge is None:
            writers = [w for w in flow.writers if w.out.index == value.index]
            whole = len(writers) == 1 and writers[0].full and not writers[0].constant
            return writers[0] if whole and _alone(flow, *writers[0].parameters) else None
        if edge.kind != "same":
            return None
        value = edge.ins[0]
    return None


def _readers(flow: Flow, out: Value) -> list[Reader]:
    """Returns the full maps that read a value, if it is read by nothing else."""
    readers = [r for r in flow.readers if r.value.index == out.index]
    whole = all(r.full and r.slices.block == 1 and _alone(flow, r.weight) for r in readers)
    return readers if whole and len(readers) == flow.consumed[out.index] else []


def _alone(flow: Flow, *names: str) -> bool:
    return all(flow.uses.get(name) == 1 for name in names)
