"""Where a backward pass can be resumed: an edge of autograd's graph through which everything below it is reached.

A network too large for one portion of columns is differentiated from the output down, portion by portion. Without cuts
every portion would repeat the way from the output. The residual stream between two blocks is such an edge.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Cut", "Graph"]


class Cut(NamedTuple):
    """Names an edge by its node's position among how many, whatever graph it is found in, and keeps gradients there.

    It holds no node: that would keep a whole forward pass alive.
    """

    position: int
    nodes: int
    grads: list[Tensor]


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
        return GradientEdge(self.nodes[cut.position], 0) if cut.nodes == len(self.nodes) else None

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
        metadata = self.nodes[place]._input_metadata
        return self._single[place] and len(metadata) > 0 and fits(tuple(metadata[0].shape))

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
