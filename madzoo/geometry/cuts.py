"""Where a backward pass can be resumed: an edge of autograd's graph through which everything below it is reached.

A network too large for one portion of columns is differentiated from the output down, portion by portion. Without cuts
every portion would repeat the way from the output. The residual stream between two blocks is such an edge.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Cut", "Graph"]


class Cut(NamedTuple):
    """Says where a backward pass stopped, and keeps the gradients there. A forward pass for what lies below ends early.

    It holds no node: that would keep a whole forward pass alive.

    Attributes:
        call: number of the torch call after which that forward pass ends; None: it runs to the answer.
        position, nodes: of the edge's node, among all nodes of its graph.
        grads: one gradient per row of a sample, [S, ...].
    """

    call: int | None
    position: int
    nodes: int
    grads: Tensor


class Graph:
    """Orders the nodes of autograd's graph below an answer and finds each one's immediate dominator.

    Args:
        root: the answer's node.

    Cost: O(nodes).
    """

    def __init__(self, root: Node) -> None:
        self.nodes = _downwards(root)
        self._place = {node: place for place, node in enumerate(self.nodes)}
        self._above = [0] * len(self.nodes)  # the dominator of each
        self._single = [True] * len(self.nodes)  # only its first output is used
        self._find_dominators()

    def edge(self, cut: Cut) -> GradientEdge | None:
        """Returns the edge of a cut made in an earlier graph of the same samples; None where this graph is another."""
        same = cut.nodes == len(self.nodes) and self.shape(cut.position) == cut.grads.shape[1:]
        return GradientEdge(self.nodes[cut.position], 0) if same else None

    def shape(self, position: int) -> tuple[int, ...] | None:
        """Returns the shape of the gradient that a node takes, where it takes any."""
        metadata = self.nodes[position]._input_metadata
        return tuple(metadata[0].shape) if len(metadata) > 0 else None

    def cut(
        self, position: int, calls: Mapping[Node, int], *, call: int | None, room: Tensor | None, slots: int
    ) -> Cut:
        """Returns a cut whose gradients are to be filled in.

        Args:
            position: of its node, not 0.
            calls: the torch call that made a node's tensor, where one did.
            call: after which the forward pass of this graph ended.
            room: to be used again where it is of the right shape.
            slots: rows S of a sample.
        """
        shape = (slots, *(self.shape(position) or ()))
        fits = room is not None and room.shape == shape
        grads = room if room is not None and fits else torch.empty(shape, **self._options(position))
        top = position
        while top and self.nodes[top] not in calls:  # made within the call that made this one's tensor
            top = self._above[top]
        below = _downwards(self.nodes[top])
        return Cut(calls.get(self.nodes[top], call), below.index(self.nodes[position]), len(below), grads)

    def _options(self, position: int) -> dict[str, Any]:
        metadata = self.nodes[position]._input_metadata[0]
        return {"dtype": metadata.dtype, "device": metadata.device}

    def lowest_cut(self, edges: Iterable[GradientEdge], fits: Callable[[tuple[int, ...]], bool]) -> int:
        """Returns the position of the lowest node above all the edges whose gradient is worth keeping; 0 for the root.

        Args:
            edges: what must lie below.
            fits: whether a gradient of some shape may be kept.
        """
        targets = {self._place[edge.node] for edge in edges if edge.node in self._place}
        if not targets:
            return len(self.nodes) - 1
        place = max(targets)
        for target in targets:
            place = self._meet(place, target)
        while place and (place in targets or not self._is_kept(place, fits)):
            place = self._above[place]
        return place

    def _is_kept(self, place: int, fits: Callable[[tuple[int, ...]], bool]) -> bool:
        shape = self.shape(place)
        return self._single[place] and shape is not None and fits(shape)

    def _find_dominators(self) -> None:
        seen = {0}
        for place, node in enumerate(self.nodes):
            for below, output in node.next_functions:
                if below is None:
                    continue
                index = self._place[below]
                self._single[index] &= output == 0
                self._above[index] = self._meet(self._above[index], place) if index in seen else place
                seen.add(index)

    def _meet(self, a: int, b: int) -> int:
        """Returns the lowest common dominator: positions only grow downwards."""
        while a != b:
            a, b = (a, self._above[b]) if a < b else (self._above[a], b)
        return a


def _downwards(root: Node) -> list[Node]:
    """Returns all nodes, each after all that lead to it."""
    done: set[Node] = set()
    finished: list[Node] = []
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            finished.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((below, False) for below, _ in node.next_functions if below is not None and below not in done)
    return finished[::-1]
