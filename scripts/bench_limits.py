"""What this machine can do at best, on one core: state updates and exponentials in registers, bytes through memory.

The kernel library measures the first two itself, with the vector code of its own scan and nothing read or written:
one state update is one exponential, two fused multiply-adds and one multiplication. Without the library only what
PyTorch reaches is known.
"""

import ctypes
import time
from collections.abc import Callable

import torch

from madzoo.ops.kernels.library import kernel_library, kernel_status

__all__ = ["limits"]

SECONDS = 0.2  # of each of the five repetitions
REPEATS = 5


def limits() -> dict[str, float]:
    """Returns the rates of one core, in 1/s and bytes/s; what cannot be measured here is left out."""
    found = {}
    for name, symbol in (("state updates", "madzoo_limit_state_update"), ("exponentials", "madzoo_limit_exp")):
        if (rate := _in_registers(symbol)) is not None:
            found[f"{name} in registers, {kernel_status().isa}"] = rate
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        small, large = torch.full((4096,), -0.5), torch.ones(2**24)
        out, target = torch.empty_like(small), torch.empty_like(large)
        found["torch.exp in cache"] = _rate(lambda: torch.exp(small, out=out), small.numel())
        found["copy, bytes read and written"] = _rate(lambda: target.copy_(large), 2 * large.nbytes)
    finally:
        torch.set_num_threads(threads)
    return found


def _in_registers(symbol: str) -> float | None:
    """Returns the float32 rate of a limit program of the library, which makes as many steps as it is told."""
    library = kernel_library()
    if library is None or not hasattr(library, symbol):
        return None
    program = getattr(library, symbol)
    program.argtypes, program.restype = [ctypes.c_int64, ctypes.c_int], ctypes.c_double
    steps = 2**24
    return _rate(lambda: program(steps, 0), steps)


def _rate(call: Callable[[], object], work: int) -> float:
    """Returns work per second of the best of a few repetitions: a limit is what was reached, not what is usual."""
    best = 0.0
    for _ in range(REPEATS):
        calls, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < SECONDS or not calls:
            call()
            calls += 1
        best = max(best, work * calls / seconds)
    return best
