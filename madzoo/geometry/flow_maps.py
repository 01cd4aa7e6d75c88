"""What a trace notes of maps and norms: who writes a value, and who reads it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from madzoo.gauges import Slices
from madzoo.geometry.flow import Norm, Reader, Value, Writer
from madzoo.geometry.flow_notes import BATCH_NORM, FlowNotes, arguments_of
from madzoo.symmetry import Parameters

__all__ = ["CONVOLUTIONS", "MapRules"]

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


class MapRules(FlowNotes):
    """A rule per kind of map: the value it writes, None where it is not understood."""

    def _linear(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        x, weight, bias = arguments_of(args, kwargs, "input", "weight", "bias")
        return self._map(x, weight, bias, y, axis=-1, before=before, takes_shift=True)

    def _convolution(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        x, weight, bias, _, padding, _, groups = arguments_of(
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
        query, key, value, *_, out_weight, out_bias = arguments_of(args, kwargs, *names, "out_weight", "out_bias")
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

    def _batch_norm(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        x, mean, var, gain, bias, training, _, eps = arguments_of(args, kwargs, *BATCH_NORM)
        value, eps = before.get(id(x)), 1e-5 if eps is None else float(eps)
        number = self.batches
        self.batches += bool(training)
        if value is None or value.axis != 1 or {id(mean), id(var)} & self.names.keys():  # torch.batch_norm's own order
            return None
        if training:
            return self._batch_statistics(value, gain, bias, y, eps, number)
        if mean is None:
            return None
        deviation = (var + eps).sqrt()
        return self._normed("batch", value, gain, bias, y, eps, mean=mean.clone(), deviation=deviation)

    def _batch_statistics(
        self, value: Value, gain: Tensor | None, bias: Tensor | None, y: Tensor, eps: float, number: int
    ) -> Value | None:
        if self.variances is None or value.block != 1:
            return None
        variance = partial(self.variances, number=number)
        return self._normed("batch", value, gain, bias, y, eps, variance=variance)

    def _norm(self, name: str, args: Any, kwargs: Any, y: Tensor, before: Any) -> Value | None:
        keys = ("input", "normalized_shape", "weight") + (("bias", "eps") if name == "layer_norm" else ("eps",))
        x, shape, gain, *rest = arguments_of(args, kwargs, *keys)
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
        variance: Callable[[Parameters], Tensor] | None = None,
    ) -> Value | None:
        keys = [self.names.get(id(t)) if t is not None else None for t in (gain, bias)]
        if any(key is None and t is not None for key, t in zip(keys, (gain, bias), strict=True)):
            return None
        out = self._new(y, axis=value.axis)
        self._use(*keys)
        norm = Norm(
            kind=kind,
            value=value,
            out=out,
            gain=keys[0],
            bias=keys[1],
            eps=eps,
            mean=mean,
            deviation=deviation,
            variance=variance,
        )
        self.flow.norms.append(norm)
        return out
