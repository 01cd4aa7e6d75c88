"""The rows of J by some parameters, sample by sample: from a traced batch, or by one plain backward pass per row.

Legend: c samples of a batch, K elements of one sample's output.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from madzoo.geometry.network import Network
from madzoo.geometry.tracing import Stopped, Trace
from madzoo.geometry.uses import Use

__all__ = ["Batch", "as_real", "plain_rows", "run_batch"]


class Batch(NamedTuple):
    """Holds a traced forward pass: its answer [c, K], the trace, and the uses of each parameter by name.

    Where the pass ended early, the result of its last call stands for the answer.
    """

    answer: Tensor
    trace: Trace
    uses: dict[str, list[Use]]

    def unknown(self, network: Network) -> set[str]:
        """Returns the parameters whose uses are not all understood."""
        return {name for name, p in network.parameters.items() if id(p) in self.trace.unknown}

    def backward(
        self,
        cotangent: Tensor,
        uses: Iterable[Use],
        *,
        last: bool,
        start: GradientEdge | None = None,
        stop: GradientEdge | None = None,
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Returns the gradient at the edge of every use that has one, by ``id`` of the use, and that at ``stop``.

        Args:
            cotangent: of the answer, or of ``start``.
            uses: what is asked for.
            last: whether the graph may go.
            start: where the pass starts; None: at the answer.
            stop: another edge to read the gradient at.
        """
        wanted = list({id(use): use for use in uses}.values())
        if not self.answer.requires_grad:
            return {}, None
        edges = [use.edge for use in wanted] + ([stop] if stop else [])
        if not edges:
            return {}, None
        source: GradientEdge = start or get_gradient_edge(self.answer)
        grads = torch.autograd.grad([source], edges, [cotangent], retain_graph=not last, allow_unused=True)
        found = {id(use): grad for use, grad in zip(wanted, grads, strict=False) if grad is not None}
        return found, grads[-1] if stop else None

    def rows(self, parameters: dict[str, nn.Parameter], grads: dict[int, Tensor], samples: slice) -> dict[str, Tensor]:
        """Returns the rows of some parameters, [samples, numel] each, a complex element as two columns.

        What a parameter is computed into is differentiated first; its rows are then carried back to the parameter.
        """
        plain = {name: p for name, p in parameters.items() if all(use.weight is p for use in self.uses[name])}
        found = {name: _summed(self.uses[name], grads, samples) for name in plain}
        others = {name: p for name, p in parameters.items() if name not in plain}
        found |= _carried_back(others, [use for name in others for use in self.uses[name]], grads, samples)
        return {name: as_real(rows) for name, rows in found.items() if rows is not None}


def run_batch(network: Network, samples: slice | Tensor, batch: int, *, stop: int | None = None) -> Batch:
    """Runs some samples at once under a trace, up to some call of it or to the end."""
    trace = Trace(network.model, batch, stop=stop)
    try:
        with trace:
            answer = network.answer(samples)
    except Stopped as reached:
        answer = reached.result
    uses: dict[str, list[Use]] = {name: [] for name in network.parameters}
    names = {id(p): name for name, p in network.parameters.items()}
    for use in trace.uses:
        for source in trace.sources(use.weight):
            if source in names:
                uses[names[source]].append(use)
    return Batch(answer, trace, uses)


def plain_rows(answer: Tensor, cotangent: Tensor, parameters: Sequence[nn.Parameter], *, last: bool) -> list[Tensor]:
    """Returns the gradients [numel] of one backward pass."""
    if not answer.requires_grad or not parameters:
        return [as_real(torch.zeros_like(p).detach().reshape(1, -1))[0] for p in parameters]
    grads = torch.autograd.grad(
        answer, parameters, cotangent, retain_graph=not last, allow_unused=True, materialize_grads=True
    )
    return [as_real(grad.reshape(1, -1))[0] for grad in grads]


def as_real(rows: Tensor) -> Tensor:
    """Returns rows with two columns for a complex one."""
    return torch.view_as_real(rows.resolve_conj()).flatten(-2) if rows.is_complex() else rows


def _summed(uses: list[Use], grads: dict[int, Tensor], samples: slice) -> Tensor | None:
    parts = [use.rows(grads[id(use)], samples) for use in uses if id(use) in grads]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0] if parts else None


def _carried_back(
    parameters: dict[str, nn.Parameter], uses: list[Use], grads: dict[int, Tensor], samples: slice
) -> dict[str, Tensor | None]:
    by_weight: dict[int, list[Use]] = {}
    for use in {id(use): use for use in uses}.values():
        if id(use) in grads:
            by_weight.setdefault(id(use.weight), []).append(use)
    if not by_weight:
        return dict.fromkeys(parameters)
    weights = [group[0].weight for group in by_weight.values()]
    rows = [_summed(group, grads, samples) for group in by_weight.values()]
    cotangents = [r.reshape(len(r), *w.shape) for r, w in zip(rows, weights, strict=True) if r is not None]
    found = _backward_of_each(weights, list(parameters.values()), cotangents)
    count = len(cotangents[0])
    return {
        name: None if grad is None else grad.reshape(count, -1) for name, grad in zip(parameters, found, strict=True)
    }


def _backward_of_each(
    weights: list[Tensor], parameters: list[nn.Parameter], cotangents: list[Tensor]
) -> Sequence[Tensor | None]:
    options = {"retain_graph": True, "allow_unused": True}
    try:
        return torch.autograd.grad(weights, parameters, cotangents, is_grads_batched=True, **options)
    except RuntimeError:  # a function without a rule for many gradients at once
        each = [
            torch.autograd.grad(weights, parameters, one, **options, materialize_grads=True)
            for one in zip(*cotangents, strict=True)
        ]
        return [torch.stack(grads) for grads in zip(*each, strict=True)]
