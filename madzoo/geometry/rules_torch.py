"""The symmetries of networks of torch.nn parts, read off the flow of one forward pass.

Scales (ReLU-like chains, convolution and batch norm, residual stages, gated units), bases of linear chains, shifts of
biases, LayerNorm and RMSNorm streams and what reads them, the common shift of logits under a softmax. Parameter names
are those of the whole model.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from madzoo.gauges import Slices, basis, diagonal_term, matrix_term, scale
from madzoo.geometry.batch_norms import added_term, scale_terms, shift_terms
from madzoo.geometry.channel_systems import INSIDE, Solution, components, scale_solutions, shift_solutions
from madzoo.geometry.flow import Flow, Norm, Reader, Value, Writer
from madzoo.geometry.rules_attention import core_symmetries
from madzoo.geometry.selection import Output
from madzoo.stream_gauges import NormReader, rotation, stream_scale, written_ones, zero_sum
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["common_shift", "flow_symmetries"]

SOFTMAX = ("log_probs", "probabilities")
LARGEST_BASIS = 2048  # channels of a linear chain: their basis has the square of it as dimensions


def flow_symmetries(flow: Flow, model: nn.Module, *, output: Output) -> Iterator[Symmetry]:
    """Yields the symmetries of everything in a flow.

    Args:
        flow: what one forward pass showed.
        model: whose flow it is.
        output: what is differentiated.
    """
    for component in components(flow, flow.edges):
        linear = _linear_basis(flow, component)
        if linear is not None:
            yield linear
        else:
            for solution in scale_solutions(flow, component):
                yield _scale(flow, component, solution)
        for solution in shift_solutions(flow, component):
            yield _shift(flow, component, solution)
    yield from _quadratic_forms(flow)
    for component in components(flow, [e for e in flow.edges if e.kind in INSIDE]):
        yield from _stream(flow, component, model)
    yield from _zero_sums(flow)
    yield from _weight_norms(flow, model)
    yield from core_symmetries(flow)
    yield from common_shift(flow, model, output=output)


# Scales and bases


def _linear_basis(flow: Flow, component: dict[int, Value]) -> Symmetry | None:
    """A value between linear maps, with nothing on the way, may change basis."""
    if any(e.kind not in INSIDE for e in flow.edges if e.out.index in component) or flow.stopped & set(component):
        return None
    if any(n.value.index in component or n.out.index in component for n in flow.norms):
        return None
    writers, readers = _writers(flow, component), _readers(flow, component)
    whole = all(w.full for w in writers) and all(r.full for r in readers)
    width = _width(component)
    if not (writers and readers and whole) or width > LARGEST_BASIS:
        return None
    forward = {name: slices for w in writers for name, slices in w.parameters.items()}
    return basis("linear.basis", width, forward=forward, backward={r.weight: r.slices for r in readers})


def _scale(flow: Flow, component: dict[int, Value], solution: Solution) -> Symmetry:
    """Channel i of every value grows by its power in the solution: writers take it in, readers take it back."""
    width = _width(component)
    powers = {key: float(value) for key, value in solution.items()}
    into = [(name, slices, powers.get(w.out.index, 0.0)) for w in flow.writers for name, slices in w.parameters.items()]
    into += [(name, Slices(), powers.get(n.out.index, 0.0)) for n in flow.norms for name in (n.gain, n.bias) if name]
    back = [(r.weight, r.slices, -powers.get(r.value.index, 0.0)) for r in flow.readers]
    norms = [(n, powers[n.value.index]) for n in flow.norms if n.kind == "batch" and powers.get(n.value.index)]

    def terms(params: Parameters) -> Iterator[Term]:
        for name, slices, power in into + back:
            if power:
                yield diagonal_term(name, params[name], slices, width, power)
        for norm, power in norms:
            yield from scale_terms(norm, params, power)

    return from_terms(_scale_name(flow, solution, [norm for norm, _ in norms]), width, terms)


def _scale_name(flow: Flow, solution: Solution, batch_norms: list[Norm]) -> str:
    if batch_norms:
        return "batch_norm.scale" if all(n.mean is not None for n in batch_norms) else "batch_norm.scale_on_this_sample"
    out = {n.out.index: n.kind for n in flow.norms}
    kinds = {e.kind for e in flow.edges if e.out.index in solution}
    if "product" in kinds:
        return "product.scale"
    if "add" in kinds:
        return "stream.channel_scale"
    norm = next((kind for i, kind in out.items() if i in solution), None)
    if kinds & {"relu", "homogeneous"}:
        return "relu.scale"
    return f"{norm}_norm.gain" if norm else "channel.scale"


def _quadratic_forms(flow: Flow) -> Iterator[Symmetry]:
    """One sum of squares, weighted by c, is a quadratic form: what keeps diag(c) may turn the squared channels."""
    for edge in (e for e in flow.edges if e.kind == "power" and e.power == 2):
        writers = [w for w in flow.writers if w.out.index == edge.ins[0].index and w.full]
        readers = [r for r in flow.readers if r.value.index == edge.out.index and r.rows == 1 and r.slices.block == 1]
        both = {edge.out.index, edge.ins[0].index}
        users = sum(bool(both & {v.index for v in e.ins}) for e in flow.edges) + sum(
            r.value.index in both for r in flow.readers
        )
        if len(writers) == len(readers) == 1 and users == 2 and not both & flow.stopped:
            yield _turned_squares(writers[0], readers[0], edge.out.width)


def _turned_squares(writer: Writer, reader: Reader, width: int) -> Symmetry:
    i, j = torch.triu_indices(width, width, offset=1)

    def terms(params: Parameters) -> Iterator[Term]:
        c = params[reader.weight].flatten()
        for name, slices in writer.parameters.items():
            yield matrix_term(name, params[name], slices, i, j, weight=1 / c[i])
            yield matrix_term(name, params[name], slices, j, i, weight=-1 / c[j])

    return from_terms("quadratic.rotation", len(i), terms)


# Shifts


def _shift(flow: Flow, component: dict[int, Value], solution: Solution) -> Symmetry:
    """A constant moves between biases: what writes a value adds it, what reads the value takes it back."""
    width = _width(component)
    added = [(key[1], float(value)) for key, value in solution.items() if isinstance(key, tuple)]
    shifts = {key: float(value) for key, value in solution.items() if not isinstance(key, tuple)}
    axes = {name: s.axis for w in flow.writers if w.constant for name, s in w.weights.items()}
    readers = [(r, shifts[r.value.index]) for r in flow.readers if shifts.get(r.value.index)]
    norms = [(n, shifts[n.value.index]) for n in flow.norms if n.kind == "batch" and shifts.get(n.value.index)]

    def terms(params: Parameters) -> Iterator[Term]:
        for name, amount in added:
            others = params[name].movedim(axes.get(name, 0), 0).shape[1:]
            amounts = torch.full((width,), amount, dtype=torch.float64)
            yield added_term(name, amounts, axis=axes.get(name, 0), others=others)
        for reader, amount in readers:
            yield _taken(reader, params[reader.weight], width, -amount)
        for norm, amount in norms:
            yield from shift_terms(norm, params, amount)

    return from_terms("bias.shift", width, terms)


def _taken(reader: Reader, weight: Tensor, width: int, amount: float) -> Term:
    """Generator i adds ``amount`` times what the reader makes of ones on channel i to its bias."""
    assert reader.bias is not None
    columns = weight.movedim(reader.slices.axis, 0)
    columns = columns.unflatten(0, (width, reader.slices.block)).sum(1).reshape(width, len(weight), -1).sum(-1)
    outputs = columns.shape[1]
    return Term(
        parameter=reader.bias,
        axis=0,
        rows=torch.arange(outputs).repeat(width),
        coefficients=torch.arange(width).repeat_interleave(outputs),
        source=columns.flatten(),
        source_rows=torch.arange(width * outputs),
        weights=torch.full((width * outputs,), amount, dtype=torch.float64),
    )


# Streams


def _stream(flow: Flow, component: dict[int, Value], model: nn.Module) -> Iterator[Symmetry]:
    """What only norms read has the symmetries of :mod:`madzoo.stream_gauges`."""
    norms = [n for n in flow.norms if n.value.index in component]
    kinds = {n.kind for n in norms}
    if len(kinds) != 1 or kinds == {"batch"} or not _read_by_norms_only(flow, component):
        return
    writers, width = _writers(flow, component), _width(component)
    if not writers or not all(w.full for w in writers):
        return
    written = {name: slices for w in writers for name, slices in w.parameters.items()}
    if kinds == {"layer"}:
        yield written_ones("layer_norm.mean", model, written)
    if all(n.eps == 0 for n in norms):
        yield stream_scale("stream.scale", width, writers=written)
    readers = [_norm_reader(flow, n) for n in norms]
    if all(reader is not None for reader in readers):
        through = [reader for reader in readers if reader is not None]
        yield rotation("stream.rotation", width, writers=written, readers=through, fixes_ones=kinds == {"layer"})


def _read_by_norms_only(flow: Flow, component: dict[int, Value]) -> bool:
    other_edges = [e for e in flow.edges if e.kind not in INSIDE]
    touched = {v.index for e in other_edges for v in (e.out, *e.ins)} | {r.value.index for r in flow.readers}
    touched |= {n.out.index for n in flow.norms} | flow.stopped
    return not touched & set(component)


def _norm_reader(flow: Flow, norm: Norm) -> NormReader | None:
    """Returns what reads a norm, if that is linear maps alone."""
    group = _after(flow, norm.out)
    if group is None or flow.stopped & group or any(n.value.index in group for n in flow.norms):
        return None
    readers = [r for r in flow.readers if r.value.index in group]
    if not readers or not all(r.full and r.slices.block == 1 for r in readers):
        return None
    return _as_reader(norm, readers)


def _after(flow: Flow, value: Value) -> set[int] | None:
    """Returns what follows a value by ``same`` edges; None where another kind of edge leaves it."""
    group = {value.index}
    for edge in flow.edges:
        if group & {v.index for v in edge.ins}:
            if edge.kind != "same":
                return None
            group.add(edge.out.index)
    return group


def _zero_sums(flow: Flow) -> Iterator[Symmetry]:
    for norm in flow.norms:
        if norm.kind != "layer":
            continue
        group = {norm.out.index}
        for edge in flow.edges:
            if edge.kind == "same" and edge.ins[0].index in group:
                group.add(edge.out.index)
        for reader in flow.readers:
            exact = reader.full and reader.slices.block == 1 and (reader.bias or not norm.bias)
            if reader.value.index in group and exact and flow.uses.get(reader.weight) == 1:
                through = _as_reader(norm, [reader])
                yield zero_sum(
                    "layer_norm.zero_sum", reader.rows, reader=reader.weight, norm=through, reader_bias=reader.bias
                )


def _weight_norms(flow: Flow, model: nn.Module) -> Iterator[Symmetry]:
    for direction in flow.weight_norms:
        yield scale("weight_norm.scale", len(model.get_parameter(direction)), grow={direction: Slices()}, shrink={})


def common_shift(flow: Flow, model: nn.Module, *, output: Output) -> Iterator[Symmetry]:
    """Yields that under a softmax all logits may move together: each input of the last map adds a multiple of ones."""
    if output not in SOFTMAX or flow.output is None or flow.output.axis != len(flow.output.shape) - 1:
        return
    before = {flow.output.index}
    for edge in reversed(flow.edges):
        if edge.kind in INSIDE and edge.out.index in before:
            before |= {v.index for v in edge.ins}
    for writer in flow.writers:
        if writer.out.index in before and writer.full:
            yield written_ones("softmax.shift", model, writer.parameters)


# Small questions


def _as_reader(norm: Norm, readers: list[Reader]) -> NormReader:
    biases = {r.weight: r.bias for r in readers if r.bias}
    weights = {r.weight: r.slices for r in readers}
    return NormReader(weights, norm.gain, norm.bias, biases, norm.kind == "layer")


def _writers(flow: Flow, component: dict[int, Value]) -> list[Writer]:
    return [w for w in flow.writers if w.out.index in component]


def _readers(flow: Flow, component: dict[int, Value]) -> list[Reader]:
    return [r for r in flow.readers if r.value.index in component]


def _width(component: dict[int, Value]) -> int:
    return next(iter(component.values())).width
