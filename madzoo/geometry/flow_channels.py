"""What a trace notes of operations that keep channels apart: which value comes from which, and how."""

from typing import Any

import torch
from torch import Tensor

from madzoo.geometry.flow import Edge, Value
from madzoo.geometry.flow_notes import FlowNotes
from madzoo.geometry.heads import axis_order

__all__ = ["ChannelRules", "SAME", "POOLS", "HOMOGENEOUS", "ADDITIONS", "FIXING", "PRODUCTS", "QUOTIENTS"]

SAME = {
    "dropout", "contiguous", "clone", "to", "double", "type_as", "alias", "detach",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip
POOLS = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"}
HOMOGENEOUS = {"relu", "relu_", "leaky_relu", "leaky_relu_", "prelu"} | POOLS
ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "__sub__"}
# They fix the scale of what they take, and make something new of it that has channels again.
FIXING = {
    "silu",
    "gelu",
    "tanh",
    "sigmoid",
    "softmax",
    "elu",
    "selu",
    "softplus",
    "hardswish",
    "hardtanh",
    "relu6",
    "exp",
    "mish",
}
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
QUOTIENTS = {"div", "div_", "true_divide", "__truediv__", "__itruediv__"}


class ChannelRules(FlowNotes):
    """A rule per kind of operation: the value it makes, None where it is not understood."""

    def _channelwise(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0]))
        if value is None:
            return None
        if name == "prelu":
            self._use(self.names.get(id(args[1])))
        kind = "same" if name in SAME else "relu" if name in ("relu", "relu_") else "homogeneous"
        return self._edge(kind, y, (value,), axis=value.axis)

    def _mean(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0]))
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        if value is None or axes is None or name == "sum":
            return None
        gone = {a % len(value.shape) for a in ((axes,) if isinstance(axes, int) else axes)}
        if value.axis in gone:
            return None
        kept = y.ndim == len(value.shape)
        return self._edge(
            "same", y, (value,), axis=value.axis if kept else value.axis - sum(a < value.axis for a in gone)
        )

    def _reshaped(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        """Keeps the channel axis where its size and all axes before it, or after it, stay."""
        value = before.get(id(args[0])) or self._constant(args[0])
        if value is None:
            return None
        shape, axis, block = value.shape, value.axis, value.block
        if axis == len(shape) - 1 and y.shape[-1] == shape[-1]:
            return self._edge("same", y, (value,), axis=y.ndim - 1)
        if tuple(y.shape[: axis + 1]) == tuple(shape[: axis + 1]):
            return self._edge("same", y, (value,), axis=axis)
        inner = int(torch.tensor(shape[axis + 1 :]).prod()) if axis + 1 < len(shape) else 1
        if y.ndim == axis + 1 and tuple(y.shape[:axis]) == tuple(shape[:axis]) and y.shape[-1] == shape[axis] * inner:
            return self._edge("same", y, (value,), axis=axis, block=block * inner)
        return None

    def _moved(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0]))
        order = None if kwargs else axis_order(name, args, y.ndim)
        if value is None or order is None:
            return None
        return self._edge("same", y, (value,), axis=order.index(value.axis))

    def _expanded(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0])) or self._constant(args[0])
        if value is None or value.shape[value.axis] != y.shape[value.axis - len(value.shape)]:
            return None
        return self._edge("same", y, (value,), axis=y.ndim - len(value.shape) + value.axis)

    def _sliced(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value, index = before.get(id(args[0])), args[1] if isinstance(args[1], tuple) else (args[1],)
        if value is None or any(not isinstance(i, (int, slice)) for i in index):
            return None
        if value.axis < len(index) and index[value.axis] != slice(None):
            return None
        gone = sum(isinstance(i, int) for i in index[: value.axis])
        return self._edge("same", y, (value,), axis=value.axis - gone)

    def _sum(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        if kwargs or len(args) != 2 or not all(isinstance(a, Tensor) for a in args) or "sub" in name:
            return None
        values = self._operands(args, before)
        if values is None or len({v.width for v in values}) != 1:
            return None
        return self._edge("add", y, values, axis=values[0].axis - len(values[0].shape) + y.ndim)

    def _product(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        if kwargs or len(args) != 2:
            return None
        if not all(isinstance(a, Tensor) for a in args):
            value = before.get(id(args[0]))
            return value and self._edge("same", y, (value,), axis=value.axis)
        values = self._operands(args, before, unknown=y.shape)
        if values is None or len({v.width for v in values}) != 1:
            return None
        return self._edge("product", y, values, axis=values[0].axis - len(values[0].shape) + y.ndim)

    def _quotient(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0]))
        if value is None or kwargs or isinstance(args[1], Tensor):
            return None
        return self._edge("same", y, (value,), axis=value.axis)

    def _power(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value, power = before.get(id(args[0])), 2 if name == "square" else args[1]
        if value is None or not isinstance(power, int) or power < 1:
            return None
        out = self._new(y, axis=value.axis, width=value.width, block=value.block)
        self.flow.edges.append(Edge(kind="power", out=out, ins=(value,), power=power))
        return out

    def _fixed(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        value = before.get(id(args[0]))
        if value is None:
            return None
        self.flow.stopped.add(value.index)
        out = self._new(y, axis=value.axis, width=value.width, block=value.block)
        self.flow.stopped.add(out.index)
        return out

    def _cat(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        tensors = args[0]
        along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % y.ndim
        found = [before.get(id(t)) or self._constant(t) for t in tensors]
        values = tuple(v for v in found if v is not None)
        if len(values) < len(found) or {v.axis for v in values} != {values[0].axis} or values[0].axis == along:
            return None
        return self._edge("cat", y, values, axis=values[0].axis)
