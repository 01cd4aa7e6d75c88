"""Attention as it is written by hand, recognised in the torch functions of a forward pass.

What counts is the path: linear maps -> heads -> ``q @ k.mT`` -> softmax -> ``@ v`` -> heads side by side, or torch's
``scaled_dot_product_attention``, with transposes, scalar factors and masks on the way. What leaves the path is none.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["AttentionCore", "HeadTrace", "Heads", "axis_order"]

MASKS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "__sub__", "masked_fill", "masked_fill_"}
FACTORS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "true_divide"}
PRODUCTS = {"matmul", "__matmul__", "bmm"}
UNCHANGED = {"dropout", "contiguous", "clone", "to", "type_as", "float", "double"}
MOVES = {"transpose", "swapaxes", "permute", "mT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """Some channels of a value of :mod:`madzoo.geometry.flow`, in heads.

    Attributes:
        value: whose channels.
        start, width: the first of them, and how many.
        heads: among which they are split, in order.
        axis: holds the channels of a head.
        head_axis: holds the heads, None where there is one alone.
    """

    value: Any
    start: int
    width: int
    axis: int
    heads: int = 1
    head_axis: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What queries and keys give, and whether a softmax over the keys has been taken."""

    query: Heads
    key: Heads
    softmax: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed:
    """Values mixed by scores, which are None where their origin is unknown; axes as in :class:`Heads`."""

    scores: Scores | None
    softmax: bool
    values: Heads
    axis: int
    head_axis: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionCore:
    """One attention, from its three linear maps to the value ``out`` that its heads write side by side.

    Queries and keys are None where something else, as a rotation by position, lies between their maps and the scores.
    """

    query: Heads | None
    key: Heads | None
    values: Heads
    out: Any
    softmax: bool


Part = Heads | Scores | Mixed


class HeadTrace:
    """Follows the parts of attentions through a forward pass.

    Args:
        new_value: makes the value that the heads write, [.., channels], of a tensor.
        consumed: how often each value is used, by index; what leaves the path is used once more.
    """

    def __init__(self, new_value: Callable[[Tensor], Any], consumed: Counter[int]) -> None:
        self.new_value, self.consumed = new_value, consumed
        self.parts: dict[int, Part] = {}
        self.used: set[int] = set()
        self.cores: list[AttentionCore] = []

    def follow(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], y: Any, values: dict[int, Any]) -> Any:
        """Notes what a function did with parts; returns the value that heads side by side are, if it made one.

        Args:
            name: of the function.
            args, kwargs: its arguments.
            y: what it returned.
            values: of its arguments, by id of the tensor.
        """
        read = {id(t): self.parts[id(t)] for t in args if isinstance(t, Tensor) and id(t) in self.parts}
        found = self._result(name, args, kwargs, y, values)
        for key, part in read.items():
            if found is None or key in self.used:
                self.consumed.update(heads.value.index for heads in _heads_of(part))
            self.used.add(key)
        for tensor in y if isinstance(y, (tuple, list)) else [y]:
            self.parts.pop(id(tensor), None)
        if isinstance(found, dict):
            self.parts |= found
            return None
        return found

    def _result(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], y: Any, values: dict[int, Any]) -> Any:
        first = self._part(args[0], values) if args else None
        if name in PRODUCTS:
            return self._product(first, self._part(args[1], values), y)
        if name == "scaled_dot_product_attention":
            return self._whole([self._part(t, values) for t in args[:3]], y) if _is_plain(args, kwargs) else None
        if first is None:
            return None
        if name in ("chunk", "split", "tensor_split") and isinstance(y, (tuple, list)):
            return _pieces(first, args[0], y)
        if not isinstance(y, Tensor):
            return None
        if name in ("unflatten", "view", "reshape", "flatten"):
            return self._reshaped(first, args[0], y)
        return _unchanged(name, first, args, kwargs, y, self.parts | values)

    def _part(self, tensor: Any, values: dict[int, Any]) -> Part | None:
        value = values.get(id(tensor))
        if value is None:
            return self.parts.get(id(tensor))
        return Heads(value=value, start=0, width=value.width, axis=value.axis) if value.block == 1 else None

    def _product(self, a: Part | None, b: Part | None, y: Tensor) -> Any:
        if not isinstance(b, Heads):
            return None
        if a is None or isinstance(a, Scores):
            return self._mixed(a, b, y, softmax=a is not None and a.softmax)
        if isinstance(a, Mixed) or (a.axis, b.axis) != (y.ndim - 1, y.ndim - 2):
            return None
        if (a.head_axis, a.heads) != (b.head_axis, b.heads):
            return None
        return {id(y): Scores(query=a, key=b, softmax=False)}

    def _whole(self, parts: list[Part | None], y: Tensor) -> Any:
        query, key, values = (p if isinstance(p, Heads) and p.axis == y.ndim - 1 else None for p in parts)
        if values is None:
            return None
        both = query is not None and key is not None and (query.head_axis, query.heads) == (key.head_axis, key.heads)
        scores = Scores(query=query, key=key, softmax=True) if query and key and both else None
        return self._mixed(scores, values, y, softmax=True)

    def _mixed(self, scores: Scores | None, values: Heads, y: Tensor, *, softmax: bool) -> Any:
        heads = scores.query if scores else values
        if values.axis != y.ndim - 1 or (values.head_axis, values.heads) != (heads.head_axis, heads.heads):
            return None
        mixed = Mixed(scores=scores, softmax=softmax, values=values, axis=values.axis, head_axis=values.head_axis)
        return self._core(mixed, y) if values.head_axis is None else {id(y): mixed}

    def _reshaped(self, part: Part, x: Tensor, y: Tensor) -> Any:
        if isinstance(part, Scores) or part.axis != x.ndim - 1:
            return None
        if isinstance(part, Heads):
            split = part.head_axis is None and y.ndim > 2 and y.shape[-2] * y.shape[-1] == part.width
            axes = {"axis": y.ndim - 1, "head_axis": y.ndim - 2}
            return {id(y): dataclasses.replace(part, heads=y.shape[-2], **axes)} if split else None
        joined = part.head_axis == x.ndim - 2 and y.shape[-1] == x.shape[-2] * x.shape[-1]
        return self._core(part, y) if joined else None

    def _core(self, mixed: Mixed, y: Tensor) -> Any:
        query, key = (mixed.scores.query, mixed.scores.key) if mixed.scores else (None, None)
        out = self.new_value(y)
        self.cores.append(AttentionCore(query=query, key=key, values=mixed.values, out=out, softmax=mixed.softmax))
        return out


def axis_order(name: str, args: Sequence[Any], axes: int) -> list[int] | None:
    """Returns, for each axis of what a transposing function returns, the axis it was before; None where unknown."""
    order = list(range(axes))
    if name in ("transpose", "swapaxes"):
        a, b = (axis % axes for axis in args[1:3])
    elif name in ("mT", "T") and (name == "mT" or axes == 2):
        a, b = axes - 2, axes - 1
    elif name == "permute":
        axes_of = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
        return [axis % axes for axis in axes_of]
    else:
        return None
    order[a], order[b] = b, a
    return order


def _is_plain(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return len(args) >= 3 and not kwargs.get("enable_gqa")


def _heads_of(part: Part) -> Iterator[Heads]:
    if isinstance(part, Heads):
        yield part
    elif isinstance(part, Scores):
        yield from (part.query, part.key)
    else:
        yield part.values
        yield from _heads_of(part.scores) if part.scores else ()


def _pieces(part: Part, x: Tensor, pieces: Sequence[Tensor]) -> dict[int, Part] | None:
    """Cuts channels that are not split into heads yet."""
    if not isinstance(part, Heads) or part.head_axis is not None:
        return None
    if sum(piece.shape[part.axis] for piece in pieces) != x.shape[part.axis]:
        return None
    found: dict[int, Part] = {}
    start = part.start
    for piece in pieces:
        found[id(piece)] = dataclasses.replace(part, start=start, width=piece.shape[part.axis])
        start += piece.shape[part.axis]
    return found


def _unchanged(
    name: str, part: Part, args: Sequence[Any], kwargs: dict[str, Any], y: Tensor, known: dict[int, Any]
) -> dict[int, Part] | None:
    """Follows what leaves a part what it is: transposes, factors, masks, the softmax."""
    plain = len(args) < 2 or not isinstance(args[1], Tensor)
    if name in UNCHANGED or (name in FACTORS and plain):
        return {id(y): part}
    if isinstance(part, Scores):
        if part.softmax:
            return None
        last = (args[1] if len(args) > 1 else kwargs.get("dim")) in (-1, y.ndim - 1) if name == "softmax" else False
        masked = name in MASKS and not (not plain and id(args[1]) in known)
        return {id(y): dataclasses.replace(part, softmax=last)} if last or masked else None
    order = axis_order(name, args, y.ndim) if name in MOVES and not kwargs else None
    if order is None:
        return None
    head_axis = None if part.head_axis is None else order.index(part.head_axis)
    return {id(y): dataclasses.replace(part, axis=order.index(part.axis), head_axis=head_axis)}
