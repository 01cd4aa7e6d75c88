"""Fair clocks: calls timed in turns in one process, and the memory of one call in a process of its own."""

import contextlib
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["medians", "peak_memory", "rounds_for", "time_in_turns"]

MIB = 2**20
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Times calls as A B C ... A B C, so that whatever else the machine does meets all of them; returns seconds.

    One round that does not count comes first. The garbage collector waits until the end.

    Args:
        calls: what to time, by name.
        rounds: turns of each call that count.
        clock: seconds since some moment: wall time, or ``time.process_time``.

    Example:
        >>> {name: len(seconds) for name, seconds in time_in_turns({"a": lambda: 1, "b": list}, rounds=3).items()}
        {'a': 3, 'b': 3}
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds + 1):
            for name, call in calls.items():
                start = clock()
                call()
                if turn:
                    taken[name].append(clock() - start)
    finally:
        if was_on:
            gc.enable()
    return {name: tuple(seconds) for name, seconds in taken.items()}


def medians(taken: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Returns the median of every list of times."""
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def rounds_for(round_seconds: float, *, budget: float, least: int = 5, most: int = 100) -> int:
    """Returns how many rounds of this length fit into a budget of seconds, within two bounds.

    Example:
        >>> rounds_for(0.5, budget=10), rounds_for(60.0, budget=10), rounds_for(0.0, budget=10)
        (20, 5, 100)
    """
    return max(least, min(most, int(budget / round_seconds))) if round_seconds > 0 else most


def peak_memory(call: Callable[[], object]) -> float | None:
    """Runs a call once; returns the largest resident memory meanwhile, less that before, in MiB.

    What earlier calls warmed up is not counted again: measure in a fresh process. None where the system has no
    high-water mark that can be reset (all but Linux).
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc: pages of freed tensors would be used again and go unseen
    try:
        CLEAR_REFS.write_text("5")  # VmHWM := VmRSS
        before = _status("VmRSS")
        result = call()
        peak = _status("VmHWM")
    except OSError:
        return None
    del result
    return max(0, peak - before) / MIB


def _status(field: str) -> int:
    """Returns an entry of /proc/self/status in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
