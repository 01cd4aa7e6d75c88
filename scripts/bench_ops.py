"""Times each operator's paths against each other: medians of alternating runs in one process.

    python scripts/bench_ops.py [--threads 1] [--only diagonal ...] [--into docs/performance.md]

The numbers behind the choices in madzoo.ops: up to which length a long convolution is a matrix product, when a constant
diagonal system runs as a recurrence, the chunk of the state space duality, the short convolution's kernel. The
selective scan has a benchmark of its own, bench_scan.py.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench_report import Report, markdown, timed_cell
from torch import Tensor

from madzoo.errors import BackendError
from madzoo.ops import causal_conv1d, long_conv, ssd
from madzoo.ops.diagonal_scan import diagonal_scan, quickest
from madzoo.workflows.timing import medians, rounds_for, time_in_turns

CONVOLUTIONS = tuple((28, 16, length) for length in (32, 64, 128, 192, 256, 512))  # B, H, L
DIAGONALS = (  # B, H, L, N
    (448, 16, 27, 16), (28, 16, 512, 8), (8, 128, 64, 32), (8, 128, 512, 32),
    (64, 4, 64, 32), (64, 8, 64, 32), (64, 12, 64, 32), (64, 16, 32, 64),
    (4, 128, 2048, 16), (4, 128, 8192, 16), (1, 128, 16384, 32),
)  # fmt: skip
DUALITIES = ((8, 256, 6, 64, 64), (4, 2048, 4, 64, 64))  # B, L, H, P, N
CHUNKS = (16, 32, 64, 128)
SHORT = ((8, 384, 197, 4), (1, 384, 197, 4), (4, 128, 2048, 4))  # B, D, L, K
QUICK = {
    "convolution": ((2, 4, 32),),
    "diagonal": ((2, 4, 32, 4),),
    "duality": ((1, 64, 2, 8, 4),),
    "short": ((2, 16, 9, 4),),
}

Sizes = Sequence[tuple[int, ...]]
Call = Callable[[], Tensor]


def leaf(*shape: int) -> Tensor:
    """Returns a random leaf that wants a gradient."""
    return torch.randn(shape, requires_grad=True)


def compare(title: str, name: str, sizes: Sizes, make: Callable[..., dict[str, Call]]) -> list[str]:
    """Times the paths of one operator at each size; returns two tables, forward, and forward with backward."""
    return [_table(f"{title}, {words}", name, sizes, make, backward) for words, backward in (
        ("forward", False), ("forward and backward", True),
    )]  # fmt: skip


def _table(title: str, name: str, sizes: Sizes, make: Callable[..., dict[str, Call]], backward: bool) -> str:
    rows, names = [], []
    for size in sizes:
        calls = {path: _ready(call, backward) for path, call in make(*size).items()}
        first = medians(time_in_turns(calls, rounds=1))
        rounds = rounds_for(sum(first.values()), budget=5, least=5, most=41)
        found = medians(time_in_turns(calls, rounds=rounds))
        names = list(found)
        rows.append([size, *(timed_cell(found[path], found[path] / found[names[0]]) for path in names), rounds])
    return markdown(f"{title}: median ms, and times as long as the first", [name, *names, "n"], rows)


def _ready(call: Call, backward: bool) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return call()

    return (lambda: call().sum().backward()) if backward else forward


def served(calls: dict[str, Call]) -> dict[str, Call]:
    """Drops the paths that this machine lacks."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except BackendError:
            continue
        found[name] = call
    return found


def convolutions(batch: int, channels: int, length: int) -> dict[str, Call]:
    """Returns the two ways of a long convolution."""
    u, k = leaf(batch, channels, length), leaf(channels, length)
    return {method: lambda m=method: long_conv(u, k, method=m) for method in ("toeplitz", "fft")}


def diagonals(batch: int, channels: int, length: int, pairs: int) -> dict[str, Call]:
    """Returns the recurrence and the convolution, which makes its kernel each time, as layers do."""
    u, v = leaf(batch, channels, length), torch.randn(channels, pairs, dtype=torch.complex64, requires_grad=True)
    decay, turn = -0.01 - torch.rand(channels, pairs), torch.rand(channels, pairs)
    log_z = torch.complex(decay, turn).requires_grad_()
    paths = {"cpu": "cpu", "convolution": quickest(channels, length, gradients=True, kernels=False)}
    return served({name: lambda b=b: diagonal_scan(u, v, log_z, backend=b) for name, b in paths.items()})


def dualities(batch: int, length: int, heads: int, headdim: int, states: int) -> dict[str, Call]:
    """Returns the chunked scan of Mamba-2 with chunks of several sizes."""
    x, dt = leaf(batch, length, heads, headdim), leaf(batch, length, heads)
    A, B, C = -torch.rand(heads) - 0.1, leaf(batch, length, 1, states), leaf(batch, length, 1, states)
    return {f"chunk {size}": lambda size=size: ssd(x, dt, A, B, C, size, dt_softplus=True) for size in CHUNKS}


def short_convolutions(batch: int, channels: int, length: int, taps: int) -> dict[str, Call]:
    """Returns the short convolution with SiLU on channel-last memory, by the kernel and by PyTorch's operators."""
    x, weight, bias = leaf(batch, length, channels), leaf(channels, taps), leaf(channels)
    paths = ("cpu", "torch")
    return served({b: lambda b=b: causal_conv1d(x.mT, weight, bias, activation="silu", backend=b) for b in paths})


OPERATORS = {
    "convolution": ("Long convolution", "(B, H, L)", CONVOLUTIONS, convolutions),
    "diagonal": ("Constant diagonal system (S4D)", "(B, H, L, N)", DIAGONALS, diagonals),
    "duality": ("State space duality (Mamba-2)", "(B, L, H, P, N)", DUALITIES, dualities),
    "short": ("Short convolution with SiLU", "(B, D, L, K)", SHORT, short_convolutions),
}


def main() -> None:
    """Prints two Markdown tables for each operator."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(OPERATORS), default=list(OPERATORS))
    parser.add_argument("--into", type=Path, help="page between whose markers the tables are written")
    parser.add_argument("--quick", action="store_true", help="one small size each: does everything run?")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("bench_ops", args.into)
    for key in args.only:
        title, name, sizes, make = OPERATORS[key]
        for table in compare(f"{title}, {args.threads} thread(s)", name, QUICK[key] if args.quick else sizes, make):
            report.tell(table)
    report.write()


if __name__ == "__main__":
    main()
