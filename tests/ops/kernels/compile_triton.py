"""Compiles what one scan would launch for an absent GPU, and prints what its kernels take: run, not imported."""

import json
import re
import subprocess
import sys
import tempfile

import pytest
import torch

from madzoo.ops.kernels import selective_scan_triton

triton = pytest.importorskip("triton", reason="triton is not installed")
backends = pytest.importorskip("triton.backends.compiler")

# dtype, states, groups, channel-last, optional inputs, reverse
CASES = {
    "float32-16": ("float32", 16, 1, True, True, False),
    "bfloat16-64": ("bfloat16", 64, 2, True, True, True),
    "float16-4": ("float16", 4, 1, False, False, False),
    "float32-1": ("float32", 1, 1, False, True, True),
    "float32-256": ("float32", 256, 1, True, True, False),
    "float64-16": ("float64", 16, 1, True, True, False),
}


class AbsentGPU:
    """What Triton asks of a driver before a launch."""

    def get_current_target(self):
        return backends.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_case(name):
    """Returns registers and stack of each kernel of a forward and a backward pass."""
    found = {}

    def compile_only(kernel, plan, device, **arguments):
        compiled = kernel.warmup(grid=(1,), **arguments, **plan.sizes, **plan.constants)
        found[kernel.fn.__name__] = resources(compiled.asm["cubin"])

    triton.runtime.driver.set_active(AbsentGPU())
    selective_scan_triton._launch = compile_only
    dtype, states, groups, channel_last, optional, reverse = CASES[name]
    inputs = make_inputs(getattr(torch, dtype), states, groups, channel_last, optional)
    y, state = selective_scan_triton.triton_selective_scan(*inputs, True, reverse)
    torch.autograd.backward((y, state), (torch.empty_like(y), torch.empty_like(state)))
    return found


def make_inputs(dtype, states, groups, channel_last, optional):
    batch, channels, length = 2, 384, 197

    def walked(*size):
        x = torch.zeros(batch, length, *size).movedim(1, -1) if channel_last else torch.zeros(batch, *size, length)
        return x.to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    rows = torch.zeros(channels, dtype=wide), walked(channels), torch.zeros(channels, dtype=wide)
    vectors = walked(groups, states), walked(groups, states)
    A = torch.zeros(channels, states, dtype=wide)
    inputs = [walked(channels), walked(channels), A, *vectors, *(rows if optional else (None,) * 3)]
    return [None if x is None else x.requires_grad_() for x in inputs]


def resources(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK")}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compile_case(sys.argv[1])) + "\n")
