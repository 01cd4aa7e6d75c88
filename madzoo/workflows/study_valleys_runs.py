"""The runs of the valley study on real pictures: a grid of SGD, a row of algorithms, and arms along one valley."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.training.probes import LandscapeProbe, ProbeSettings
from madzoo.training.probes_path import linear_path
from madzoo.workflows.study_valleys_measures import largest_eigenvalue, measure
from madzoo.workflows.study_valleys_networks import Pictures, build, half_square
from madzoo.workflows.study_valleys_protocol import Protocol

__all__ = ["State", "descend", "fit", "make_rule", "run_algorithm", "run_arm", "run_grid"]

State = dict[str, Tensor]
Record = dict[str, Any]
DIVERGED = 1e3  # of a batch's loss, which begins near 1


class _Rule:
    """One optimizer; SAM takes its gradient uphill."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, rho: float = 0.0) -> None:
        self.model, self.optimizer, self.rho = model, optimizer, rho

    def step(self, x: Tensor, y: Tensor) -> float:
        """Takes one step; returns the loss where it started."""
        loss = self._differentiate(x, y)
        if self.rho:
            moves = self._uphill()
            self._differentiate(x, y)
            with torch.no_grad():
                for p, move in moves:
                    p.sub_(move)
        self.optimizer.step()
        return loss

    def _differentiate(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = half_square(self.model(x), y)
        loss.backward()
        return loss.item()

    @torch.no_grad()
    def _uphill(self) -> list[tuple[nn.Parameter, Tensor]]:
        slopes = [(p, p.grad) for p in self.model.parameters() if p.grad is not None]
        size = torch.stack([g.norm() for _, g in slopes]).norm().clamp(min=1e-12)
        moves = [(p, self.rho * g / size) for p, g in slopes]
        for p, move in moves:
            p.add_(move)
        return moves


def make_rule(model: nn.Module, name: str, lr: float, protocol: Protocol) -> _Rule:
    """Makes a rule by its name in the protocol; ``"label"`` is SGD, its noise is in the targets."""
    if name == "adam":
        return _Rule(model, torch.optim.Adam(model.parameters(), lr=lr))
    momentum = 0.9 if name == "momentum" else 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return _Rule(model, optimizer, protocol.rho if name == "sam" else 0.0)


def descend(
    rule: _Rule,
    data: Pictures,
    *,
    steps: int,
    batch: int,
    seed: int,
    label: float = 0.0,
    on_step: Callable[[int, float], None] | None = None,
) -> int | None:
    """Trains for some steps; returns the step at which the loss was above 1000 or no number, None where it never was.

    Args:
        rule: with its network, trained in place.
        data: whose pictures are fitted.
        steps: updates.
        batch: pictures a step; all of them are taken as they stand.
        seed: of order and noise.
        label: standard deviation of the noise on the targets, fresh at every step.
        on_step: called with ``(step, loss)`` after each step, counted from 1.
    """
    generator = torch.Generator().manual_seed(seed)
    order = _order(len(data.train), batch, generator)
    for step in range(1, steps + 1):
        chosen = next(order)
        y = data.targets[chosen]
        if label:
            y = y + label * torch.randn(y.shape, generator=generator)
        loss = rule.step(data.train[chosen], y)
        if not loss < DIVERGED:
            return step
        if on_step is not None:
            on_step(step, loss)
    return None


def run_grid(network: str, seed: int, batch: int, lr: float, data: Pictures, protocol: Protocol) -> Record:
    """Runs SGD for a given time lr x steps from the initialisation, with probes on the way and a measurement after."""
    start, model, steps = time.process_time(), build(network, seed), round(protocol.grid_time / lr)
    settings = ProbeSettings(every=max(steps // protocol.looks, 1), microbatches=_parts(len(data.train)))
    probe = LandscapeProbe(model, (data.train, data.targets), half_square, lr=lr, settings=settings)
    probe.look(0, 0.0)
    diverged = descend(make_rule(model, "sgd", lr, protocol), data, steps=steps, batch=batch, seed=seed, on_step=probe)
    looks = [record.to_dict() for record in probe.records]
    names = {"kind": "grid", "network": network, "seed": seed, "batch": batch, "lr": lr, "steps": steps}
    end = None if diverged else measure(model, data, protocol.bits)
    return names | {"diverged_at": diverged, "looks": looks, "end": end, "cpu_seconds": _since(start)}


def run_algorithm(network: str, seed: int, name: str, lr: float, data: Pictures, protocol: Protocol) -> Record:
    """Runs one algorithm from the initialisation, and measures where it is."""
    start, model = time.process_time(), build(network, seed)
    first = copy.deepcopy(model.state_dict())
    diverged = descend(
        make_rule(model, name, lr, protocol),
        data,
        steps=protocol.algorithm_steps,
        batch=protocol.algorithm_batch,
        seed=seed,
        label=protocol.label if name == "label" else 0.0,
    )
    names = {"kind": "algorithm", "network": network, "seed": seed, "algorithm": name, "lr": lr}
    if diverged:
        return names | {"diverged_at": diverged, "end": None, "cpu_seconds": _since(start)}
    travelled = linear_path(model, first, model.state_dict(), (data.train, data.targets), half_square, points=3).length
    end = measure(model, data, protocol.bits) | {"travelled": travelled}
    return names | {"diverged_at": None, "end": end, "cpu_seconds": _since(start)}


def fit(network: str, seed: int, data: Pictures, protocol: Protocol) -> tuple[State, Record]:
    """Fits all pictures by Adam with a cosine schedule: a point near the bottom of a valley, and its measures."""
    start, model = time.process_time(), build(network, seed)
    rule = make_rule(model, "adam", protocol.fit_lr, protocol)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(rule.optimizer, protocol.fit_steps)
    descend(rule, data, steps=protocol.fit_steps, batch=len(data.train), seed=seed, on_step=lambda *_: schedule.step())
    names = {"kind": "fit", "network": network, "seed": seed, "num_params": sum(p.numel() for p in model.parameters())}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, names | {"end": measure(model, data, protocol.bits, whole=True), "cpu_seconds": _since(start)}


def run_arm(
    network: str, seed: int, arm: str, label: float, state: State, data: Pictures, protocol: Protocol
) -> Record:
    """Goes on from a fitted network with a constant step; measures relaxed copies on the way.

    ``barrier`` is that of the straight line from the start to a relaxed copy, ``travelled`` its length.
    """
    start, model = time.process_time(), build(network, seed)
    model.load_state_dict(state)
    lr = protocol.arm_share / largest_eigenvalue(model, data)["lambda_max"]
    every = protocol.arm_steps // protocol.snapshots
    settings = ProbeSettings(every=every, microbatches=0, motion_samples=min(len(data.train), 32))
    probe = LandscapeProbe(model, (data.train, data.targets), half_square, lr=lr, settings=settings)
    probe.look(0, 0.0)
    snapshots: list[Record] = []

    def on_step(step: int, loss: float) -> None:
        probe(step, loss)
        if step % every == 0:
            last = step // every == protocol.snapshots
            snapshots.append({"step": step} | _snapshot(model, state, data, protocol, whole=last))

    rule = make_rule(model, "sgd", lr, protocol)
    diverged = descend(
        rule,
        data,
        steps=every * protocol.snapshots,
        batch=protocol.arm_batch,
        seed=1000 + seed,
        label=label,
        on_step=on_step,
    )
    names = {"kind": "arm", "network": network, "seed": seed, "arm": arm, "label": label, "lr": lr}
    looks = [record.to_dict() for record in probe.records]
    found = {"diverged_at": diverged, "looks": looks, "snapshots": snapshots}
    return names | found | {"cpu_seconds": _since(start)}


def _snapshot(model: nn.Module, state: State, data: Pictures, protocol: Protocol, *, whole: bool) -> Record:
    twin = copy.deepcopy(model)
    lr = 1 / largest_eigenvalue(twin, data)["lambda_max"]
    descend(make_rule(twin, "sgd", lr, protocol), data, steps=protocol.relax_steps, batch=len(data.train), seed=0)
    batch = (data.train, data.targets)
    path = linear_path(twin, state, twin.state_dict(), batch, half_square, points=21)
    found = measure(twin, data, protocol.bits, whole=whole)
    return found | {"barrier": path.barrier, "travelled": path.length}


def _order(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    if batch >= count:
        whole = torch.arange(count)
        while True:
            yield whole
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


def _parts(count: int) -> int:
    return next(parts for parts in (8, 6, 4, 2, 0) if parts == 0 or count % parts == 0)


def _since(start: float) -> float:
    return round(time.process_time() - start, 2)
