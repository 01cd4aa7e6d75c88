"""Times the selective scan on a CUDA GPU: our Triton kernels, the published CUDA kernel, the lean path, and two limits.

``python scripts/bench_gpu.py`` prints one Markdown table. Every path runs what is timed twice: as Python calls it, and
replayed from a CUDA graph, which leaves out what Python and the launches cost. The limits are measured in the same run.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from madzoo.ops.kernels.selective_scan_cuda import cuda_selective_scan, why_not_cuda
from madzoo.ops.kernels.selective_scan_gpu import choose_gpu_backend
from madzoo.ops.kernels.selective_scan_triton import triton_selective_scan, why_not_triton
from madzoo.ops.kernels.triton_functions import jit, tl, triton
from madzoo.ops.selective_scan_lean import lean_selective_scan

# batch, channels, length, states: a batch of images, training on images, training on series, one long series
SHAPES = ((8, 384, 197, 16), (128, 384, 197, 16), (64, 256, 512, 16), (4, 128, 2048, 16), (1, 1536, 16384, 16))
LEAN_UP_TO = 512  # positions: each is several launches
CALLS, ROUNDS = 10, 15


def main() -> None:
    """Measures everything and prints the table."""
    if not torch.cuda.is_available():
        sys.exit("bench_gpu.py needs a CUDA GPU, and torch sees none here (torch.cuda.is_available() is False)")
    bandwidth, exponentials = measure_bandwidth(), measure_exponentials()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}. Limits: copy {bandwidth / 1e9:.0f} GB/s, ", end=""
    )
    print(f"{exponentials / 1e9:.0f} G exponentials/s.\n" if exponentials else "exponentials unknown without triton.\n")
    columns = ["B, D, L, N", "memory", "pass", "memory limit", "exp limit"]
    columns += ["Triton", "Triton, graph", "mamba_ssm", "mamba_ssm, graph", "lean", "auto takes"]
    print(f"Milliseconds, medians of {ROUNDS} rounds.\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for channel_last in (True, False):
                inputs = make_inputs(shape, dtype, channel_last)
                for backward in (False, True):
                    print(row(shape, inputs, channel_last, backward, bandwidth, exponentials), flush=True)


def row(
    shape: tuple[int, ...],
    inputs: list[Tensor],
    channel_last: bool,
    backward: bool,
    bandwidth: float,
    exponentials: float | None,
) -> str:
    """Returns one line of the table."""
    u, delta, A, B, C, *_ = inputs
    # Sequences read and written at least: u, delta, z, y; then the first three, three gradients and that of y.
    moved = (11 if backward else 4) * u.nbytes + (6 if backward else 2) * B.nbytes
    counted = (2 if backward else 1) * u.numel() * A.shape[1]
    layout = f"{'channel-last' if channel_last else 'contiguous'}, {str(u.dtype)[6:]}"
    cells = [
        str(shape)[1:-1],
        layout,
        "forward + backward" if backward else "forward",
        f"{moved / bandwidth * 1e3:.3f}",
    ]
    cells.append(f"{counted / exponentials * 1e3:.3f}" if exponentials else "—")
    for scan, why_not in ((triton_selective_scan, why_not_triton), (cuda_selective_scan, why_not_cuda)):
        call = partial(forward_backward if backward else forward, scan, inputs)
        lacking = why_not(u, A, B, C)
        cells += ["—", "—"] if lacking else [f"{eager(call):.3f}", f"{replayed(call):.3f}"]
    call = partial(forward_backward if backward else forward, lean_selective_scan, [x.float() for x in inputs])
    cells.append(f"{eager(call):.3f}" if shape[2] <= LEAN_UP_TO else "—")
    return f"| {' | '.join([*cells, choose_gpu_backend(u, delta, A, B, C) or 'torch'])} |"


def forward(scan: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> None:
    """Runs a scan that nobody differentiates."""
    with torch.no_grad():
        scan(*inputs, True, False)


def forward_backward(scan: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> None:
    """Runs a scan and its gradient by every input."""
    y, _ = scan(*inputs, True, False)
    torch.autograd.grad(y, inputs, torch.ones_like(y))


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, channel_last: bool) -> list[Tensor]:
    """Returns what a layer passes, u to delta_bias: activations in dtype, weights in float32."""
    batch, channels, length, states = shape
    options = {"device": "cuda", "dtype": dtype}

    def walked(*size: int) -> Tensor:
        last = torch.randn(batch, length, *size, **options).movedim(1, -1)
        return last if channel_last else last.contiguous()

    u, delta, z = (walked(channels) for _ in range(3))
    B, C = (walked(1, states) for _ in range(2))
    A, D, bias = (torch.rand(*size, device="cuda") for size in ((channels, states), (channels,), (channels,)))
    return [x.requires_grad_() for x in (u, delta, -A - 0.1, B, C, D, z, bias - 4)]


def eager(call: Callable[[], None]) -> float:
    """Returns milliseconds of a call as Python makes it."""
    return clocked(lambda: [call() for _ in range(CALLS)]) / CALLS


def replayed(call: Callable[[], None]) -> float:
    """Returns milliseconds of a call in a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    return clocked(graph.replay) / CALLS


def clocked(call: Callable[[], object]) -> float:
    """Returns the median of a few rounds in milliseconds, by the GPU's clock."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return statistics.median(taken)


def measure_bandwidth() -> float:
    """Returns bytes read and written per second by a copy too large for any cache."""
    source = torch.ones(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (clocked(lambda: target.copy_(source)) * 1e-3)


def measure_exponentials() -> float | None:
    """Returns exponentials per second in registers, or None without triton."""
    if triton is None:
        return None
    programs, steps, block = 8192, 2048, 1024
    out = torch.empty(programs * block, device="cuda")
    kernel: Any = exponentials_kernel
    taken = clocked(lambda: kernel[(programs,)](out, steps, BLOCK=block, num_warps=4, enable_fp_fusion=True))
    return programs * block * steps / (taken * 1e-3)


@jit
def exponentials_kernel(out, steps, BLOCK: "tl.constexpr"):  # noqa: ANN001, ANN201
    """Computes chains of exponentials, many side by side."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32)
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(out + at, x)


if __name__ == "__main__":
    main()
