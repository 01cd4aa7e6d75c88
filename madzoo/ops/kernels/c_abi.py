"""What the Python sides of the compiled kernels share: tensors as pointers and strides, memory for results, the call.

B batch, D channels, L length.
"""

import ctypes

import torch
import torch.autograd.forward_ad
from torch import Tensor

from madzoo.ops.kernels.library import kernel_library

__all__ = [
    "Sequence",
    "is_followed",
    "is_watched",
    "kernels_are_here",
    "pointer",
    "run",
    "same_layout",
    "sequence",
    "why_not_cpu",
]


class Sequence(ctypes.Structure):
    """Mirrors ``madzoo_sequence``: a tensor [B, D, L] in any layout, strides counted in numbers."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "channel", "position"))]


def sequence(x: Tensor | None) -> Sequence:
    """Describes a tensor [B, D, L] to C as it lies; an absent one has no address."""
    return Sequence() if x is None else Sequence(x.data_ptr(), *x.stride())


def pointer(x: Tensor | None) -> int | None:
    """Returns where a tensor begins."""
    return None if x is None else x.data_ptr()


def same_layout(x: Tensor) -> Tensor:
    """Returns memory for a result like x [B, D, L]: channel-last where x is, else contiguous; always without gaps."""
    batch, channels, length = x.shape
    if x.stride(1) == 1 and x.stride(2) != 1:
        return x.new_empty(batch, length, channels).transpose(1, 2)
    return x.new_empty(batch, channels, length)


def kernels_are_here() -> bool:
    """Returns whether there are compiled kernels."""
    return kernel_library() is not None


# So that a tracing compiler does not follow the loading of a library: all that torch.compiler.assume_constant_result
# does, but that imports the whole compiler at every program's start.
kernels_are_here._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_followed(x: Tensor) -> bool:
    """Returns whether something follows operators by name: a compiler, a tracer, a derivative, a tensor subclass."""
    return (
        type(x) not in (Tensor, torch.nn.Parameter)
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_watched(x: Tensor) -> bool:
    """Returns whether something must see an operator called: what follows operators, or a profiler."""
    return is_followed(x) or torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]


def why_not_cpu(*tensors: Tensor) -> str | None:
    """Returns why the compiled kernel does not serve these inputs, or None when it does."""
    dtype = tensors[0].dtype
    if torch._C._are_functorch_transforms_active() or any(is_followed(x) for x in tensors):
        return "tensors that something follows"
    if dtype not in (torch.float32, torch.float64) or any(x.dtype != dtype for x in tensors):
        return f"tensors of {', '.join(str(x.dtype) for x in tensors)}"
    if not all(x.is_cpu for x in tensors) or not tensors[0].numel():
        return "tensors that are empty or not on the CPU"
    return None if kernels_are_here() else "a machine without the compiled kernels"


def run(name: str, arguments: ctypes.Structure | bytes) -> None:
    """Calls an exported function with its arguments, a structure or the bytes of one.

    Raises:
        MemoryError: when the kernel got no memory for its scratch.
    """
    function = getattr(kernel_library(), name)
    if function(arguments if isinstance(arguments, bytes) else ctypes.byref(arguments)) != 0:
        raise MemoryError(f"{name} found no memory for its scratch")
