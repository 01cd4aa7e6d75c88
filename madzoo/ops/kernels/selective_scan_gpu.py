"""Which kernel serves the selective scan on a GPU when nobody chose one."""

from typing import Literal

from torch import Tensor

from madzoo.ops.kernels.selective_scan_cuda import why_not_cuda
from madzoo.ops.kernels.selective_scan_triton import why_not_triton

__all__ = ["choose_gpu_backend"]

SHORT = 128  # positions: as many as one warp of the published kernel takes at a time
LONG = 2048  # positions: a longer walk costs more than copying the sequences
CROWD = 65_536  # numbers of state: with fewer, our kernel leaves most of a large GPU idle


def choose_gpu_backend(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *, last_state_needs_grad: bool = False
) -> Literal["mamba_ssm", "triton"] | None:
    """Returns the kernel that should be quickest for these inputs, or None when neither serves.

    The published kernel shares out the positions of a channel among threads and reads memory that is contiguous along
    L; other memory is copied first, which is more traffic than the scan itself. Ours walks the positions one after
    another, reads any layout in place (best: channel-last), and fills the GPU with channels. So:

    - memory contiguous along L: the published kernel, unless the sequence is short;
    - other memory: ours, unless the sequence is long and the channels are too few to fill the GPU.

    The rule follows from how the two kernels work; it was not measured. ``scripts/bench_gpu.py`` measures it.

    Args:
        u, delta, A, B, C: the inputs of :func:`madzoo.ops.selective_scan`.
        last_state_needs_grad: whether the last state is used and differentiated, which only our kernel can do.
    """
    published = why_not_cuda(u, A, B, C) is None and not last_state_needs_grad
    ours = why_not_triton(u, A, B, C) is None
    if not (published and ours):
        return "mamba_ssm" if published else "triton" if ours else None
    batch, channels, length = u.shape
    if u.stride(-1) == 1 and delta.stride(-1) == 1:
        return "mamba_ssm" if length > SHORT else "triton"
    few = batch * channels * A.shape[1] < CROWD
    return "mamba_ssm" if few and length > LONG else "triton"
