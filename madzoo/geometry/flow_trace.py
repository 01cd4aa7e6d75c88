"""Reads a network's flow off one forward pass, by watching every torch function.

A parameter that is used twice, or in a way not known here, stops whatever it touches: nothing is guessed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from madzoo.geometry.batch_norms import BatchVariances
from madzoo.geometry.flow import Flow, Value
from madzoo.geometry.flow_channels import ADDITIONS, FIXING, HOMOGENEOUS, PRODUCTS, QUOTIENTS, SAME, ChannelRules
from madzoo.geometry.flow_maps import CONVOLUTIONS, MapRules
from madzoo.geometry.flow_notes import FlowNotes, tensors_in

__all__ = ["trace_flow"]

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


def trace_flow(model: nn.Module, inputs: Tensor) -> Flow:
    """Runs a model on its inputs and returns its flow; values and parameters of unknown use are stopped.

    Args:
        model: in eval mode; its forward takes one tensor.
        inputs: a batch.
    """
    trace = FlowTrace(model, variances=BatchVariances(model, inputs).at if len(inputs) == 1 else None)
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


class FlowTrace(MapRules, ChannelRules, TorchFunctionMode):
    """Fills a :class:`Flow` while it is active."""

    def __init__(self, model: nn.Module, *, variances: Callable[..., Tensor] | None = None) -> None:
        FlowNotes.__init__(self, model, variances=variances)
        TorchFunctionMode.__init__(self)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function and notes what it did."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a property, as x.mT
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        before = {id(t): self.values.get(id(t)) for t in tensors_in((args, kwargs))}
        signs = args[0] > 0 if name in ("relu", "relu_") and id(args[0]) in self.values else None
        result = func(*args, **kwargs)
        if name in QUIET or not any(isinstance(t, Tensor) for t in tensors_in(result)):
            return result
        self.kept.append(result)
        self.flow.consumed.update(value.index for t in tensors_in((args, kwargs)) if (value := before.get(id(t))))
        rule = self._rule(name)
        out = rule(name, args, kwargs, result, before) if rule else None
        if out is None:
            self._stop((args, kwargs), before)
            known = {key: value for key, value in before.items() if value is not None}
            out = self.heads.follow(name, args, kwargs, result, known)
        if out is not None and signs is not None:
            self.flow.signs[out.index] = signs
        for position, tensor in enumerate(tensors_in(result)):
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
