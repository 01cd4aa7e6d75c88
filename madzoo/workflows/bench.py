"""A model's name in, its speed and memory out; two models in one process, turn and turn about."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from madzoo.errors import ConfigError, MadzooError
from madzoo.workflows.bench_step import BenchSetup, Step, prepare
from madzoo.workflows.timing import rounds_for, time_in_turns

__all__ = ["Bench", "BenchResult", "BenchSetup", "bench", "measure_memory", "measure_times"]

BUDGET = 10.0  # seconds of timing, where the number of rounds is not given


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """States what one setup takes.

    Attributes:
        setup: what was run.
        input_shape: of one call.
        unit: ``"images"`` or ``"series"``.
        threads: of torch.
        rounds: calls timed; one more came before and does not count.
        milliseconds: median of a call.
        fastest, slowest: of the calls, in milliseconds.
        per_second: images or series.
        peak_memory: MiB of the weights and of all that the first call (training: two steps) adds, in a process of its
            own; None when it was not measured.
    """

    setup: BenchSetup
    input_shape: tuple[int, ...]
    unit: str
    threads: int
    rounds: int
    milliseconds: float
    fastest: float
    slowest: float
    per_second: float
    peak_memory: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self) | {"input_shape": list(self.input_shape)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Holds one result, or two that were timed in turns."""

    results: tuple[BenchResult, ...]

    @property
    def ratio(self) -> float | None:
        """Returns how many times as much the first does in a second as the other; None without another."""
        return self.results[0].per_second / self.results[1].per_second if len(self.results) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"results": [result.to_dict() for result in self.results], "ratio": self.ratio}


def bench(
    name: str,
    *,
    vs: str | None = None,
    batch: int = 1,
    backend: str = "auto",
    kernels: bool = True,
    dtype: str = "float32",
    optimize: bool = False,
    train: bool = False,
    threads: int | None = None,
    rounds: int | None = None,
    memory: bool = True,
) -> Bench:
    """Times a model on random inputs of its own shape, alone or against another in the same process.

    Args:
        name: a model's name, also ``timm/...``.
        vs: another, or the same: run as it comes, with the same batch, threads and ``train``, but in float32, on the
            default backend, with the kernels and not optimised.
        batch, backend, kernels, dtype, optimize, train: see :class:`BenchSetup`.
        threads: of torch, for the time of this call; None: as many as are set.
        rounds: calls of each model that count; None: what fits into ten seconds, 5 to 100.
        memory: also measure peak memory, in fresh processes.

    Raises:
        ConfigError: when an option lies outside its range.
        BackendError: when the backend does not serve.
        MadzooError: whatever :func:`madzoo.create_model` says about the names.

    Cost: the models' own, some twenty times; with ``memory`` a few seconds for each process.
    """
    setups = [
        BenchSetup(
            model=name, batch=batch, backend=backend, kernels=kernels, dtype=dtype, optimize=optimize, train=train
        )
    ]
    setups += [BenchSetup(model=vs, batch=batch, train=train)] if vs is not None else []
    for count, word in ((threads, "threads"), (rounds, "rounds")):
        if count is not None and count < 1:
            raise ConfigError(f"{word} is a number, at least 1.", asked=f"{word}={count}")
    with _threads(threads):
        results = measure_times([prepare(setup) for setup in setups], rounds=rounds)
        if memory:
            results = [replace(result, peak_memory=measure_memory(result.setup)) for result in results]
    return Bench(results=tuple(results))


def measure_times(
    steps: Sequence[Step],
    *,
    rounds: int | None = None,
    budget: float = BUDGET,
    clock: Callable[[], float] = time.perf_counter,
) -> list[BenchResult]:
    """Times steps in turns; returns a record of each.

    Args:
        steps: see :func:`madzoo.workflows.bench_step.prepare`.
        rounds: calls of each that count; None: what fits into the budget, 5 to 100.
        budget: seconds for all of them together.
        clock: see :func:`madzoo.workflows.timing.time_in_turns`.
    """
    calls = {str(index): step for index, step in enumerate(steps)}
    if rounds is None:
        first = time_in_turns(calls, rounds=1)
        rounds = rounds_for(sum(sum(seconds) for seconds in first.values()), budget=budget)
    taken = time_in_turns(calls, rounds=rounds, clock=clock)
    return [_result(step, seconds) for step, seconds in zip(steps, taken.values(), strict=True)]


def _result(step: Step, seconds: tuple[float, ...]) -> BenchResult:
    middle = statistics.median(seconds)
    return BenchResult(
        setup=step.setup,
        input_shape=tuple(step.inputs.shape),
        unit=step.unit,
        threads=torch.get_num_threads(),
        rounds=len(seconds),
        milliseconds=1e3 * middle,
        fastest=1e3 * min(seconds),
        slowest=1e3 * max(seconds),
        per_second=step.samples / middle,
    )


def measure_memory(setup: BenchSetup) -> float | None:
    """Returns MiB of the weights and of all that the first call adds, measured in a fresh process; see bench_memory.py.

    Raises:
        MadzooError: when that process fails, with its last line.
    """
    words = [
        sys.executable,
        "-m",
        "madzoo.workflows.bench_memory",
        json.dumps(asdict(setup)),
        str(torch.get_num_threads()),
    ]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise MadzooError(f"the process that measures memory failed: {why}", asked=setup.model)
    return json.loads(ran.stdout.splitlines()[-1])


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
