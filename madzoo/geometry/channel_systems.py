"""Which scales and which shifts of the values in a network cancel: null spaces of small linear systems, in fractions.

All channels of a component (values that edges connect) obey the same equations, so one solution stands for as many
generators as there are channels.
"""

from collections.abc import Hashable, Iterable
from fractions import Fraction
from typing import Any

from madzoo.geometry.flow import Edge, Flow, Value

__all__ = ["components", "null_space", "scale_solutions", "shift_solutions"]

Equation = dict[Any, int]
Solution = dict[Hashable, Fraction]
INSIDE = {"same", "add", "cat"}  # linear in the whole vector of channels, the same for each


def components(flow: Flow, edges: Iterable[Edge]) -> list[dict[int, Value]]:
    """Groups all values by the given edges."""
    values = _values(flow)
    root = {index: index for index in values}

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for edge in edges:
        for value in edge.ins:
            root[find(value.index)] = find(edge.out.index)
    groups: dict[int, dict[int, Value]] = {}
    for index, value in values.items():
        groups.setdefault(find(index), {})[index] = value
    return list(groups.values())


def scale_solutions(flow: Flow, component: dict[int, Value]) -> list[Solution]:
    """Returns a basis of the log-scales of a component's values, per channel, that no edge contradicts."""
    equations: list[Equation] = []
    equations += [{index: 1} for index in component if index in flow.stopped]
    for edge in flow.edges:
        if edge.out.index not in component:
            continue
        if edge.kind == "product":
            equations.append(_sum({edge.out.index: -1}, edge.ins))
        else:
            equations += [_sum({edge.out.index: -1}, (value,), edge.power) for value in edge.ins]
    for norm in flow.norms:
        if norm.value.index in component and not norm.takes_scale:
            equations.append({norm.value.index: 1})
        if norm.out.index in component and norm.gain is None:
            equations.append({norm.out.index: 1})
    return null_space(equations, list(component))


def shift_solutions(flow: Flow, component: dict[int, Value]) -> list[Solution]:
    """Returns a basis of the shifts of a component's values, per channel; keys (index, parameter) are what writes them.

    A value that maps write is shifted by their biases, one that is read has to be zero unless its reader's bias can
    take the shift up.
    """
    equations: list[Equation] = []
    equations += [{index: 1} for index in component if index in flow.stopped]
    unknowns: list[Hashable] = list(component)
    for edge in flow.edges:
        if edge.out.index not in component:
            continue
        if edge.kind == "add":
            equations.append(_sum({edge.out.index: -1}, edge.ins))
        elif edge.kind in INSIDE:
            equations += [_sum({edge.out.index: -1}, (value,)) for value in edge.ins]
        else:
            equations += [{value.index: 1} for value in (edge.out, *edge.ins)]
    sources = [(w.out, next(iter(w.weights)) if w.constant else w.bias) for w in flow.writers]
    sources += [(norm.out, norm.bias) for norm in flow.norms]
    for value, bias in sources:
        if value.index in component:
            equation: Equation = {value.index: -1}
            if bias is not None:
                unknowns.append((value.index, bias))
                equation[(value.index, bias)] = 1
            equations.append(equation)
    equations += [{r.value.index: 1} for r in flow.readers if r.value.index in component and not r.takes_shift]
    for norm in flow.norms:
        if norm.value.index in component and not norm.takes_shift:
            equations.append({norm.value.index: 1})
    return null_space(equations, unknowns)


def null_space(equations: list[Equation], unknowns: list[Hashable]) -> list[Solution]:
    """Returns a basis of the solutions, by elimination: one per free unknown, sparse."""
    pivots: dict[Hashable, Solution] = {}
    for equation in equations:
        row: Solution = {k: Fraction(v) for k, v in equation.items() if v}
        for key in [k for k in row if k in pivots]:
            _subtract(row, pivots[key], row[key])
        if not row:
            continue
        key = next(iter(row))
        factor = row[key]
        row = {k: v / factor for k, v in row.items()}
        for other in pivots.values():
            if key in other:
                _subtract(other, row, other[key])
        pivots[key] = row
    basis = []
    for free in (u for u in unknowns if u not in pivots):
        solved = {key: -row[free] for key, row in pivots.items() if free in row}
        basis.append({free: Fraction(1), **solved})
    return basis


def _subtract(row: Solution, other: Solution, factor: Fraction) -> None:
    for key, value in other.items():
        row[key] = row.get(key, Fraction(0)) - factor * value
        if not row[key]:
            del row[key]


def _sum(equation: Equation, values: Iterable[Value], factor: int = 1) -> Equation:
    for value in values:
        equation[value.index] = equation.get(value.index, 0) + factor
    return equation


def _values(flow: Flow) -> dict[int, Value]:
    every = [v for e in flow.edges for v in (e.out, *e.ins)] + [w.out for w in flow.writers]
    every += [r.value for r in flow.readers] + [v for n in flow.norms for v in (n.value, n.out)]
    return {value.index: value for value in every}
