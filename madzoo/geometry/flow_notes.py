"""The bookkeeping of a trace: which tensor is which value, and which parameter has been used."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from madzoo.gauges import Slices
from madzoo.geometry.flow import Edge, Flow, Value, Writer
from madzoo.geometry.heads import HeadTrace

__all__ = ["BATCH_NORM", "FlowNotes", "arguments_of", "tensors_in"]

BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class FlowNotes:
    """Holds a flow while it is filled.

    Args:
        model: whose parameters are known by name.
        variances: ``(params, number)`` to those of the batch that batch norm ``number`` takes, at any parameters; None
            where samples could be grouped in other batches.
    """

    def __init__(self, model: nn.Module, *, variances: Callable[..., Tensor] | None = None) -> None:
        self.flow = Flow()
        self.values: dict[int, Value] = {}
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.gains: dict[int, str] = {}  # weights computed by weight normalisation: id -> name of the gain
        self.kept: list[Any] = list(model.parameters())
        self.heads = HeadTrace(self._stopped_value, self.flow.consumed)
        self.flow.attentions = self.heads.cores
        self.count = 0  # of values so far
        self.variances = variances
        self.batches = 0  # of which a norm has taken the statistics so far

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
        for tensor in tensors_in(arguments):
            if (value := before.get(id(tensor))) is not None:
                self.flow.stopped.add(value.index)
            if id(tensor) in self.names:
                self.flow.uses[self.names[id(tensor)]] = 2  # an unknown use counts as a second one


def tensors_in(tree: Any) -> list[Tensor]:
    """Returns the tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for item in tree for t in tensors_in(item)] if isinstance(tree, (tuple, list)) else []


def arguments_of(args: Sequence[Any], kwargs: dict[str, Any], *names: str) -> list[Any]:
    """Returns the arguments of a call by name, None for those it left out."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]
