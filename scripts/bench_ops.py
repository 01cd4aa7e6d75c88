"""Times each operator's paths against each other: medians of alternating runs in one process, one thread.

    python scripts/bench_ops.py

The ratios behind two choices in madzoo.ops: from which length the long convolution goes through the FFT, and the lean
selective scan in place of the reference.
"""

import statistics
import time
from collections.abc import Callable

import torch

from madzoo.ops import long_conv, selective_scan

ROUNDS = 9
LENGTHS = (32, 64, 128, 192, 256, 512)
SCANS = ((1, 384, 197, 16), (8, 384, 197, 16), (128, 128, 64, 8))


def medians(*calls: Callable[[], object]) -> list[float]:
    """Returns the median seconds of each call, A B A B, after one round that does not count."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS + 1):
        for call, seconds in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in taken]


def convolution(length: int) -> list[float]:
    """Times forward and backward of the matrix and the FFT form on 448 sequences of 16 channels."""
    u = torch.randn(448, 16, length, requires_grad=True)
    k = torch.randn(16, length, requires_grad=True)
    return medians(*(lambda m=m: long_conv(u, k, method=m).sum().backward() for m in ("toeplitz", "fft")))


def scan(batch: int, channels: int, length: int, states: int) -> list[float]:
    """Times forward and backward of the lean and the reference scan."""
    u, delta = (torch.randn(batch, channels, length, requires_grad=True) for _ in range(2))
    A = -torch.rand(channels, states) - 0.1
    B, C = (torch.randn(batch, states, length, requires_grad=True) for _ in range(2))

    def run(backend: str) -> None:
        selective_scan(u, delta, A, B, C, delta_softplus=True, backend=backend).sum().backward()

    return medians(lambda: run("torch"), lambda: run("reference"))


def main() -> None:
    """Prints two Markdown tables."""
    torch.set_num_threads(1)
    print("| L | matrix ms | FFT ms | FFT / matrix |\n|---|---|---|---|")
    for length in LENGTHS:
        a, b = convolution(length)
        print(f"| {length} | {1e3 * a:.2f} | {1e3 * b:.2f} | {b / a:.2f} |")
    print("\n| (B, D, L, N) | lean ms | reference ms | reference / lean |\n|---|---|---|---|")
    for size in SCANS:
        a, b = scan(*size)
        print(f"| {size} | {1e3 * a:.1f} | {1e3 * b:.1f} | {b / a:.2f} |")


if __name__ == "__main__":
    main()
