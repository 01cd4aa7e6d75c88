"""Puts a Gram matrix together: the columns of J in portions that fit into memory, each over all samples.

Legend: n samples, S rows of a sample (some may be empty), K elements of one sample's output, m = n S.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from madzoo.geometry.cuts import Cut, Graph
from madzoo.geometry.distributed import add_up, any_process, num_processes, share_of_columns
from madzoo.geometry.ghost import mirror
from madzoo.geometry.network import Network
from madzoo.geometry.plan import Plan
from madzoo.geometry.portions import NUMBER, Portion, cut_parameter, group_portions
from madzoo.geometry.streamed import Batch, plain_rows, run_batch
from madzoo.geometry.uses import Matrix

__all__ = ["Progress", "assemble"]

Progress = Callable[[int, int], None]
Memberships = dict[str, tuple[str, ...]]
# Shares of the memory: columns of J, the graph of a batch, a product (twice, with its operands), gradients at cuts.
PORTIONS, BATCHES, TEMPORARIES, CUTS = 1 / 2, 1 / 4, 1 / 16, 1 / 10


class Assembly:
    """Computes the sum of all portions.

    Args:
        network: what is differentiated.
        plan: how.
        picked: [n, S] elements of each sample's output, -1 for none.
        memory: bytes for portions, batches and products together.
        memberships: the groups of each parameter.
        progress: is told (backward passes done, of how many).
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        *,
        picked: Tensor,
        memory: int,
        memberships: Memberships,
        progress: Progress | None,
    ) -> None:
        self.network, self.plan, self.picked, self.memory = network, plan, picked, memory
        self.memberships, self.progress = memberships, progress
        self.samples, self.slots = picked.shape
        self.most = int(memory * PORTIONS) // NUMBER  # numbers held by the portions of one load
        self.limit = max(int(memory * TEMPORARIES) // NUMBER, 1)  # and by a product
        self.unfit: set[str] = set()
        self.cuts: dict[int, Cut] = {}  # of each batch, where its backward passes stopped
        self.room = torch.empty(0)
        self.done = self.total = 0

    def run(self) -> dict[tuple[str, ...], Tensor]:
        """Returns the Gram matrix of the parameters of each membership, lower triangles."""
        size, place = self.samples * self.slots, self.network.inputs.device
        keys = sorted(set(self.memberships.values()))
        grams = {key: torch.zeros(size, size, dtype=torch.float64, device=place) for key in keys}
        traced, streamed = self._portions(traced=True), self._portions(traced=False)
        mine = share_of_columns(streamed + traced, [each.columns for each in streamed + traced])
        plain = list(group_portions([p for p in mine if p.name not in self.plan.traced], most=self.most))
        loads = list(group_portions([p for p in mine if p.name in self.plan.traced], most=self.most))
        self.total = len(plain + loads) * self.samples * self.slots
        # One room for every load: freed and taken anew, pieces of other sizes would leave gaps.
        most = max((_numbers(load) for load in plain + loads), default=0)
        self.room = torch.empty(most, dtype=torch.float64, device=place)
        for load in plain:
            self._take(load, lambda load=load: self._collect_plainly(load), grams)
        for index, load in enumerate(loads):
            rest = list({portion.name: portion for later in loads[index + 1 :] for portion in later}.values())
            self._take(load, lambda load=load, rest=rest: self._collect_batches(load, rest), grams)
        return grams

    def _take(self, load: list[Portion], collect: Callable[[], None], grams: dict[tuple[str, ...], Tensor]) -> None:
        sizes = [portion.numbers for portion in load]
        for portion, room in zip(load, self.room[: sum(sizes)].zero_().split(sizes), strict=True):
            portion.settle(self.samples, self.slots, room)
        collect()
        for portion in load:
            portion.add_to(grams[self.memberships[portion.name]], limit=self.limit)

    def _portions(self, *, traced: bool) -> list[Portion]:
        """Cuts the parameters into portions, from the output down."""
        names = [name for name in self.network.parameters if (name in self.plan.traced) == traced]
        names.sort(key=lambda name: -self.plan.latest.get(name, 0))
        sizes = {"samples": self.samples, "slots": self.slots, "most": self.most, "parts": num_processes()}
        places, own = self.plan.outer, self.network.parameters
        return [p for name in names for p in cut_parameter(name, own[name], places=places.get(name, 0), **sizes)]

    def _collect_plainly(self, load: list[Portion]) -> None:
        parameters = {portion.name: portion.parameter for portion in load}
        for sample in range(self.samples):
            answer = self.network.answer(slice(sample, sample + 1))
            for slot, element in enumerate(self.picked[sample].tolist()):
                if element >= 0:
                    cotangent = torch.zeros_like(answer)
                    cotangent[0, element] = 1
                    rows = plain_rows(answer, cotangent, list(parameters.values()), last=False)
                    found = dict(zip(parameters, rows, strict=True))
                    for portion in load:
                        portion.grads[sample, slot] = found[portion.name][portion.first : portion.last]
                self._tell(1)

    def _collect_batches(self, load: list[Portion], rest: list[Portion]) -> None:
        for number, samples in enumerate(self._batches()):
            batch, graph = self._run(number, samples)
            # Those of the rest as well: their forward passes will end before the answer.
            if missing := self._missing(batch, load + rest):
                self.unfit |= missing
                return
            self._collect_inputs(batch, samples, load)
            if graph:
                self._collect_slots(batch, graph, number, samples, load, rest)
            del batch, graph  # before the next one needs the memory

    def _run(self, number: int, samples: slice) -> tuple[Batch, Graph | None]:
        """Runs a batch up to its cut, or in full where it has none or takes another way than the last time."""
        count, cut = samples.stop - samples.start, self.cuts.get(number)
        if cut:
            batch = run_batch(self.network, samples, count, stop=cut.call)
            graph = Graph(batch.answer.grad_fn) if batch.answer.grad_fn is not None else None
            if graph and graph.edge(cut):
                return batch, graph
            del self.cuts[number], batch, graph
        batch = run_batch(self.network, samples, count)
        return batch, Graph(batch.answer.grad_fn) if batch.answer.grad_fn is not None else None

    def _collect_slots(
        self, batch: Batch, graph: Graph, number: int, samples: slice, load: list[Portion], rest: list[Portion]
    ) -> None:
        before = self.cuts.get(number)
        start = graph.edge(before) if before else None
        position, stop = self._next_position(batch, graph, before, rest), None
        for slot in range(self.slots):
            cotangent = before.grads[slot] if before else self._one_element_each(batch.answer, samples, slot)
            grads, below = batch.backward(
                cotangent,
                [use for portion in load for use in batch.uses[portion.name]],
                last=slot == self.slots - 1,
                start=start,
                stop=GradientEdge(graph.nodes[position], 0) if position else None,
            )
            if position and below is not None:
                stop = stop or self._cut(batch, graph, position, before)
                stop.grads[slot] = below
            self._keep(batch, grads, samples, slot, load)
            self._tell(samples.stop - samples.start)
        if stop:
            self.cuts[number] = stop

    def _next_position(self, batch: Batch, graph: Graph, before: Cut | None, rest: list[Portion]) -> int:
        """Returns where the passes of the rest can start, where that is lower than those of this load do, or else 0."""
        edges = [use.edge for portion in rest for use in batch.uses[portion.name]]
        position = graph.lowest_cut(edges, self._may_keep) if edges else 0
        return position if position > (before.position if before else 0) else 0

    def _cut(self, batch: Batch, graph: Graph, position: int, before: Cut | None) -> Cut:
        """Returns a cut to fill, where possible in place of that before, whose gradients are read slot by slot."""
        call, room = (before.call, before.grads) if before else (None, None)
        return graph.cut(position, batch.trace.calls, call=call, room=room, slots=self.slots)

    def _one_element_each(self, answer: Tensor, samples: slice, slot: int) -> Tensor:
        cotangent, elements = torch.zeros_like(answer), self.picked[samples, slot].to(answer.device)
        return cotangent.scatter_(1, elements.clamp(min=0)[:, None], (elements >= 0).to(answer.dtype)[:, None])

    def _may_keep(self, shape: tuple[int, ...]) -> bool:
        samples = self.samples / shape[0] if shape else 1  # all batches keep theirs
        return math.prod(shape) * samples * self.slots * NUMBER <= self.memory * CUTS

    def _missing(self, batch: Batch, load: list[Portion]) -> set[str]:
        """Returns the parameters that this batch uses otherwise than the plan says."""
        unknown = batch.unknown(self.network)
        return {each.name for each in load if each.name in unknown or not self._fits(batch, each)}

    def _fits(self, batch: Batch, portion: Portion) -> bool:
        uses = batch.uses[portion.name]
        return not portion.places or (
            all(isinstance(use, Matrix) and use.single for use in uses)
            and sum(use.places for use in uses if isinstance(use, Matrix)) == portion.places
        )

    def _collect_inputs(self, batch: Batch, samples: slice, load: list[Portion]) -> None:
        for portion in load:
            if portion.places:
                uses = [use for use in batch.uses[portion.name] if isinstance(use, Matrix)]
                read = [use.inputs(slice(None))[:, 0] for use in uses]
                portion.inputs[samples] = torch.cat(read, dim=1)

    def _keep(self, batch: Batch, grads: dict[int, Tensor], samples: slice, slot: int, load: list[Portion]) -> None:
        for portion in load:
            if portion.places:
                self._keep_outputs(batch, grads, samples, slot, portion)
        self._keep_rows(batch, grads, samples, slot, [portion for portion in load if not portion.places])

    def _keep_outputs(
        self, batch: Batch, grads: dict[int, Tensor], samples: slice, slot: int, portion: Portion
    ) -> None:
        start = 0
        for use in batch.uses[portion.name]:
            if isinstance(use, Matrix):
                stop = start + use.places
                if id(use) in grads:
                    written = use.outputs(grads[id(use)], slice(None))[:, 0]
                    portion.grads[samples, slot, start:stop] = written[..., portion.first : portion.last]
                start = stop

    def _keep_rows(
        self, batch: Batch, grads: dict[int, Tensor], samples: slice, slot: int, load: list[Portion]
    ) -> None:
        parameters = {portion.name: portion.parameter for portion in load}
        width = max((p.numel() for p in parameters.values()), default=1)
        step = max(1, self.limit // (2 * width))
        for start in range(samples.start, samples.stop, step):
            stop = min(start + step, samples.stop)
            found = batch.rows(parameters, grads, slice(start - samples.start, stop - samples.start))
            for portion in load:
                if portion.name in found:
                    portion.grads[start:stop, slot] = found[portion.name][:, portion.first : portion.last]

    def _batches(self) -> Iterator[slice]:
        # What a forward pass keeps, and a quarter more for the backward.
        most = 1 if self.plan.alone else max(1, int(self.memory * BATCHES / (1.25 * max(self.plan.kept, 1))))
        count = math.ceil(self.samples / most)
        bounds = [self.samples * index // count for index in range(count + 1)]
        yield from (slice(a, b) for a, b in itertools.pairwise(bounds))

    def _tell(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _numbers(load: list[Portion]) -> int:
    return sum(portion.numbers for portion in load)


def assemble(
    network: Network,
    plan: Plan,
    *,
    picked: Tensor,
    memory: int,
    memberships: Memberships,
    progress: Progress | None,
) -> dict[tuple[str, ...], Tensor]:
    """Returns the Gram matrix of the parameters of each membership, [m, m]; in every process the whole of it."""
    while True:
        assembly = Assembly(network, plan, picked=picked, memory=memory, memberships=memberships, progress=progress)
        grams = assembly.run()
        names = sorted(plan.traced)
        flags = any_process([name in assembly.unfit for name in names], network.inputs.device)
        unfit = {name for name, flag in zip(names, flags, strict=True) if flag}
        if not unfit:
            add_up(grams.values())
            return {key: mirror(gram) for key, gram in grams.items()}
        plan = plan.without(unfit)
