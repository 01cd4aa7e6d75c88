"""How the values inside a network depend on each other, channel by channel, as a forward pass shows it.

Every torch function of one forward pass is seen (:class:`FlowTrace`). A value has channels along one axis. Linear maps
and convolutions *write* the channels of their output and *read* those of their input; norms read one value and write
another; a few operations keep channels apart and respect a scale or a shift of each; all others *stop* both. A
parameter that is used twice, or in a way not known here, stops whatever it touches: nothing is guessed.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from madzoo.gauges import Slices
from madzoo.geometry.heads import AttentionCore, HeadTrace, axis_order

__all__ = ["Edge", "Flow", "Norm", "Reader", "Value", "Writer", "trace_flow"]

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
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
QUIET = {
    "size",
    "dim",
    "numel",
    "shape",
    "is_floating_point",
    "is_complex",
    "__len__",
    "stride",
    "requires_grad_",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor of the forward pass: its channels lie along ``axis``, ``block`` elements each."""

    index: int
    axis: int
    width: int
    block: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """How a value comes from others.

    Attributes:
        kind: ``"same"`` (any linear operation on each channel alone), ``"homogeneous"`` (commutes with positive
            scales), ``"relu"`` (likewise, and zero or the identity), ``"add"``, ``"cat"`` (along another axis),
            ``"product"``, ``"power"``.
        power: the exponent of ``"power"``.
    """

    kind: str
    out: Value
    ins: tuple[Value, ...]
    power: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """A map or a constant that writes a value; ``weights`` by parameter name, the bias apart."""

    out: Value
    weights: dict[str, Slices]
    bias: str | None = None
    full: bool = True  # every output channel reads every input channel
    constant: bool = False  # the parameter itself is what is written

    @property
    def parameters(self) -> dict[str, Slices]:
        """All it is made of, the bias too."""
        return self.weights | ({self.bias: Slices()} if self.bias else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A map that reads a value.

    Attributes:
        weight, slices: the parameter and where the channels lie in it.
        rows: of the parameter, its outputs.
        bias: of the map.
        takes_shift: True where a shift of the value can move into the bias exactly.
        full: as of :class:`Writer`.
    """

    value: Value
    weight: str
    slices: Slices
    rows: int
    bias: str | None
    takes_shift: bool
    full: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """A norm: ``kind`` is ``"batch"`` (recorded statistics), ``"layer"`` or ``"rms"``, over the channels."""

    kind: str
    value: Value
    out: Value
    gain: str | None
    bias: str | None
    eps: float
    mean: Tensor | None = None
    deviation: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class Flow:
    """All that one forward pass showed."""

    edges: list[Edge] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    weight_norms: dict[str, str] = field(default_factory=dict)  # gain by direction
    signs: dict[int, Tensor] = field(default_factory=dict)  # by relu output: where its input is positive
    uses: dict[str, int] = field(default_factory=dict)
    consumed: Counter[int] = field(default_factory=Counter)  # how many functions took a value
    attentions: list[AttentionCore] = field(default_factory=list)
    output: Value | None = None


def trace_flow(model: nn.Module, inputs: Tensor) -> Flow:
    """Runs a model on its inputs and returns its flow; values and parameters of unknown use are stopped.

    Args:
        model: in eval mode; its forward takes one tensor.
        inputs: a batch.
    """
    trace = FlowTrace(model)
    hooks = [hook for module in model.modules() if module is not model for hook in trace.watch(module)]
    try:
        with torch.no_grad(), trace:
            y = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    flow = trace.flow
    flow.output = trace.values.get(id(y)) if isinstance(y, Tensor) else None
    for value in list(trace.values.values()):
        if flow.output is not None and value.index == flow.output.index:
            flow.stopped.add(value.index)
    # What no function took goes where torch shows nothing: a compiled operator, numpy.
    flow.stopped |= {w.out.index for w in flow.writers if not w.constant} - set(flow.consumed)
    _stop_shared(flow)
    return flow


def _stop_shared(flow: Flow) -> None:
    """A parameter with a second use can not follow one of its values alone."""
    shared = {name for name, uses in flow.uses.items() if uses > 1}
    for writer in flow.writers:
        if shared & set(writer.parameters):
            flow.stopped.add(writer.out.index)
    for reader in flow.readers:
        if reader.weight in shared:
            flow.stopped.add(reader.value.index)
    for norm in flow.norms:
        if shared & {norm.gain, norm.bias}:
            flow.stopped |= {norm.value.index, norm.out.index}
    flow.readers = [
        dataclasses.replace(r, bias=None, takes_shift=False) if r.bias in shared else r for r in flow.readers
    ]


class FlowTrace(TorchFunctionMode):
    """Fills a :class:`Flow` while it is active."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flow = Flow()
        self.values: dict[int, Value] = {}
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.gains: dict[int, str] = {}  # weights computed by weight normalisation: id -> name of the gain
        self.kept: list[Any] = list(model.parameters())
        self.heads = HeadTrace(self._stopped_value, self.flow.consumed)
        self.flow.attentions = self.heads.cores
        self.count = 0  # of values so far

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function and notes what it did."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a property, as x.mT
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        before = {id(t): self.values.get(id(t)) for t in _tensors((args, kwargs))}
        signs = args[0] > 0 if name in ("relu", "relu_") and id(args[0]) in self.values else None
        result = func(*args, **kwargs)
        if name in QUIET or not any(isinstance(t, Tensor) for t in _tensors(result)):
            return result
        self.kept.append(result)
        self.flow.consumed.update(value.index for t in _tensors((args, kwargs)) if (value := before.get(id(t))))
        rule = self._rule(name)
        out = rule(name, args, kwargs, result, before) if rule else None
        if out is None:
            self._stop((args, kwargs), before)
            known = {key: value for key, value in before.items() if value is not None}
            out = self.heads.follow(name, args, kwargs, result, known)
        if out is not None and signs is not None:
            self.flow.signs[out.index] = signs
        for position, tensor in enumerate(_tensors(result)):
            if out is None or position:
                self.values.pop(id(tensor), None)
            else:
                self.values[id(tensor)] = out
        return result

    def watch(self, module: nn.Module) -> list[RemovableHandle]:
        """Stops what a module that declares its own symmetries makes inside: compiled operators do not show it all."""
        if not callable(getattr(module, "symmetries", None)):
            return []
        starts: list[int] = []

        def before(_: nn.Module, __: Any) -> None:
            starts.append(self.count)

        def after(_: nn.Module, __: Any, result: Any) -> None:
            out = self.values.get(id(result))
            inside = set(range(starts.pop() + 1, self.count + 1))
            self.flow.stopped |= inside - ({out.index} if out is not None else set())

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _rule(self, name: str) -> Callable[..., Value | None] | None:
        tables: list[tuple[set[str], Callable[..., Value | None]]] = [
            ({"linear"}, self._linear),
            (CONVOLUTIONS, self._convolution),
            ({"batch_norm"}, self._batch_norm),
            ({"layer_norm", "rms_norm"}, self._norm),
            ({"_weight_norm"}, self._weight_norm),
            (SAME | HOMOGENEOUS, self._channelwise),
            ({"mean", "sum"}, self._mean),
            ({"flatten", "reshape", "view", "squeeze", "unsqueeze"}, self._reshaped),
            ({"transpose", "swapaxes", "permute", "mT", "T"}, self._moved),
            ({"expand", "expand_as"}, self._expanded),
            ({"__getitem__"}, self._sliced),
            (ADDITIONS, self._sum),
            (PRODUCTS, self._product),
            (QUOTIENTS, self._quotient),
            ({"pow", "square", "__pow__"}, self._power),
            (FIXING, self._fixed),
            ({"cat", "concat"}, self._cat),
            ({"multi_head_attention_forward"}, self._attention),
            ({"rnn_relu"}, self._relu_rnn),
        ]
        return next((rule for names, rule in tables if name in names), None)

    # Maps

    def _linear(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        x, weight, bias = _arguments(args, kwargs, "input", "weight", "bias")
        return self._map(x, weight, bias, y, axis=-1, before=before, takes_shift=True)

    def _convolution(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        x, weight, bias, _, padding, _, groups = _arguments(
            args, kwargs, "input", "weight", "bias", "stride", "padding", "dilation", "groups"
        )
        if x.ndim != weight.ndim:
            return None
        unpadded = padding in (None, 0, "valid") or (isinstance(padding, (tuple, list)) and not any(padding))
        groups = groups or 1
        if groups not in (1, x.shape[1]):
            return None
        return self._map(x, weight, bias, y, axis=1, before=before, takes_shift=unpadded, depthwise=groups > 1)

    def _map(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        *,
        axis: int,
        before: Any,
        takes_shift: bool,
        depthwise: bool = False,
    ) -> Value | None:
        value, key = before.get(id(x)), self.names.get(id(weight)) or self.gains.get(id(weight))
        bias_key = self.names.get(id(bias)) if bias is not None else None
        if key is None or (bias is not None and bias_key is None):
            return None
        out = self._new(y, axis=axis)
        self._use(key, bias_key)
        self.flow.writers.append(Writer(out=out, weights={key: Slices()}, bias=bias_key, full=not depthwise))
        if value is not None and (value.axis != axis % x.ndim or id(weight) in self.gains):
            self.flow.stopped.add(value.index)
        elif value is not None:
            block = y.shape[axis] // value.width if depthwise else value.block
            self.flow.readers.append(
                Reader(
                    value=value,
                    weight=key,
                    slices=Slices(0 if depthwise else 1, block=block),
                    rows=len(weight),
                    bias=bias_key,
                    takes_shift=takes_shift and bias_key is not None and not depthwise,
                    full=not depthwise,
                )
            )
        return out

    def _weight_norm(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        direction, gain = (self.names.get(id(t)) for t in args[:2])
        if direction and gain and (args[2] if len(args) > 2 else 0) == 0:
            self.gains[id(y)] = gain
            self.flow.weight_norms[direction] = gain
            self._use(direction)
            return self._new(y, axis=0)
        return None

    def _attention(self, name: str, args: Any, kwargs: Any, y: Any, before: Any) -> Value | None:
        names = ("query", "key", "value", "width", "heads", "in_weight", "in_bias", "bias_k", "bias_v", "zero", "drop")
        query, key, value, *_, out_weight, out_bias = _arguments(args, kwargs, *names, "out_weight", "out_bias")
        in_weight, in_bias = args[5], args[6]
        if not (query is key is value) or in_weight is None or kwargs.get("use_separate_proj_weight"):
            return None
        self._map(query, in_weight, in_bias, query, axis=-1, before=before, takes_shift=True)
        return self._map(query.new_empty(1), out_weight, out_bias, y[0], axis=-1, before={}, takes_shift=True)

    def _relu_rnn(self, name: str, args: Any, kwargs: Any, y: Any, before: Any) -> Value | None:
        x, _, weights, has_bias, layers, _, _, bidirectional, *_ = args
        per_layer = 4 if has_bias else 2
        keys = [self.names.get(id(w)) for w in weights]
        if layers > 1 or bidirectional or None in keys or len(weights) != per_layer:
            return None
        self._stop([x], before)
        out = self._new(y[0], axis=-1)
        self._use(*keys)
        rows = {key: Slices() for key in keys if key}
        self.flow.writers.append(Writer(out=out, weights=rows, full=False))
        again = Reader(
            value=out, weight=keys[1] or "", slices=Slices(1), rows=out.width, bias=None, takes_shift=False, full=False
        )
        self.flow.readers.append(again)
        return out

    # Norms

    def _batch_norm(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        x, mean, var, gain, bias, training, _, eps = _arguments(args, kwargs, *names)
        value = before.get(id(x))
        if training or mean is None or value is None or value.axis != 1:
            return None
        deviation = (var + (1e-5 if eps is None else eps)).sqrt()
        return self._normed("batch", value, gain, bias, y, eps or 0.0, mean=mean.clone(), deviation=deviation)

    def _norm(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        keys = ("input", "normalized_shape", "weight") + (("bias", "eps") if name == "layer_norm" else ("eps",))
        x, shape, gain, *rest = _arguments(args, kwargs, *keys)
        bias, eps = rest if name == "layer_norm" else (None, rest[0])
        value = before.get(id(x))
        if len(shape) != 1 or (value is not None and (value.axis != x.ndim - 1 or value.block != 1)):
            return None
        default = 1e-5 if name == "layer_norm" else torch.finfo(x.dtype).eps
        kind = "layer" if name == "layer_norm" else "rms"
        value = value or self._stopped_value(x)
        return self._normed(kind, value, gain, bias, y, default if eps is None else float(eps))

    def _normed(
        self,
        kind: str,
        value: Value,
        gain: Tensor | None,
        bias: Tensor | None,
        y: Tensor,
        eps: float,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ) -> Value | None:
        keys = [self.names.get(id(t)) if t is not None else None for t in (gain, bias)]
        if any(key is None and t is not None for key, t in zip(keys, (gain, bias), strict=True)):
            return None
        out = self._new(y, axis=value.axis)
        self._use(*keys)
        norm = Norm(
            kind=kind, value=value, out=out, gain=keys[0], bias=keys[1], eps=eps, mean=mean, deviation=deviation
        )
        self.flow.norms.append(norm)
        return out

    # Operations on channels

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
        order = None if value is None or kwargs else axis_order(name, args, y.ndim)
        return None if order is None else self._edge("same", y, (value,), axis=order.index(value.axis))

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
        values = tuple(before.get(id(t)) or self._constant(t) for t in tensors)
        if any(v is None or v.axis == along or v.axis != values[0].axis for v in values):
            return None
        return self._edge("cat", y, values, axis=values[0].axis)

    # Bookkeeping

    def _operands(
        self, args: Sequence[Tensor], before: Any, unknown: Sequence[int] | None = None
    ) -> tuple[Value, ...] | None:
        """Returns the values of two operands whose channels meet; a parameter becomes a constant.

        An operand of unknown origin is one that no scale reaches, where it has the shape ``unknown``.
        """
        known = [before.get(id(t)) for t in args]
        lead = next((v for v in known if v is not None), None)
        if lead is None:
            return None
        from_right = lead.axis - len(lead.shape)
        values = [v or self._constant(t, from_right=from_right) for v, t in zip(known, args, strict=True)]
        for k, (v, t) in enumerate(zip(values, args, strict=True)):
            if v is None and unknown is not None and t.shape == unknown:
                values[k] = self._stopped_value(t, axis=from_right)
        if any(v is None or v.axis - len(v.shape) != from_right for v in values):
            return None
        return tuple(v for v in values if v is not None)

    def _constant(self, tensor: Tensor, from_right: int = -1) -> Value | None:
        """Makes a parameter that is used as it stands a value that writes itself."""
        key = self.names.get(id(tensor))
        if key is None or tensor.ndim + from_right < 0:
            return None
        value = self._new(tensor, axis=from_right)
        self._use(key)
        self.flow.writers.append(Writer(out=value, weights={key: Slices(tensor.ndim + from_right)}, constant=True))
        return value

    def _new(self, tensor: Tensor, *, axis: int, width: int | None = None, block: int = 1) -> Value:
        axis = axis % tensor.ndim
        self.count += 1
        return Value(
            index=self.count,
            axis=axis,
            width=width or tensor.shape[axis] // block,
            block=block,
            shape=tuple(tensor.shape),
        )

    def _edge(self, kind: str, y: Tensor, ins: tuple[Value, ...], *, axis: int, block: int | None = None) -> Value:
        block = ins[0].block if block is None else block
        out = self._new(y, axis=axis, width=ins[0].width, block=block)
        self.flow.edges.append(Edge(kind=kind, out=out, ins=ins))
        return out

    def _stopped_value(self, tensor: Tensor, axis: int = -1) -> Value:
        value = self._new(tensor, axis=axis)
        self.flow.stopped.add(value.index)
        return value

    def _use(self, *names: str | None) -> None:
        for name in names:
            if name is not None:
                self.flow.uses[name] = self.flow.uses.get(name, 0) + 1

    def _stop(self, arguments: Any, before: dict[int, Value | None]) -> None:
        for tensor in _tensors(arguments):
            if (value := before.get(id(tensor))) is not None:
                self.flow.stopped.add(value.index)
            if id(tensor) in self.names:
                self.flow.uses[self.names[id(tensor)]] = 2  # an unknown use counts as a second one


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for item in tree for t in _tensors(item)] if isinstance(tree, (tuple, list)) else []


def _arguments(args: Sequence[Any], kwargs: dict[str, Any], *names: str) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]
