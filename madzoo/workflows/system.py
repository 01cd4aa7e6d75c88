"""What this machine offers and what madzoo makes of it: the record behind ``madzoo info --system``."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from madzoo.ops.kernels.library import KernelStatus, kernel_status
from madzoo.ops.kernels.selective_scan_cuda import why_not_cuda
from madzoo.ops.kernels.selective_scan_gpu import choose_gpu_backend
from madzoo.ops.kernels.selective_scan_triton import why_not_triton

__all__ = ["SystemRecord", "system_record"]

# The instruction sets that kernels are written for or may one day be, as Linux names them.
FLAGS = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
FLAGS += ("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "bf16", "sve", "sve2")
STATES = 16
EXAMPLE = (8, 384, 197)  # batch, channels and length of the scan that a GPU is asked about
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemRecord:
    """Says what serves the selective scan on this machine, and why.

    Args:
        madzoo, torch, python, platform: versions, and the machine in words.
        cpu: its ``name``, the ``flags`` that matter here, torch's own choice of ``capability`` and its ``threads``.
        scan: for each kind of device here, the ``backend`` that "auto" takes and ``why``.
        kernels: the compiled kernels: whether they are there, how they run, or the reason they are absent.
        gpus: names of the GPUs that torch sees.
        packages: versions of the optional GPU packages, None where absent.
    """

    madzoo: str
    torch: str
    python: str
    platform: str
    cpu: dict[str, Any]
    scan: dict[str, dict[str, str]]
    kernels: KernelStatus
    gpus: tuple[str, ...]
    packages: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON."""
        return asdict(self) | {"kernels": self.kernels.to_dict(), "gpus": list(self.gpus)}


def system_record() -> SystemRecord:
    """Looks at this machine.

    Raises:
        BackendError: when MADZOO_KERNELS or MADZOO_KERNEL_ISA asks for what is not there.

    Example:
        >>> system_record().scan["cpu"]["backend"] in ("cpu", "torch")
        True
    """
    kernels = kernel_status()
    gpus = tuple(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    packages = {name: _version(name) for name in ("triton", "mamba_ssm")}
    return SystemRecord(
        madzoo=_version("madzoo") or "unknown",
        torch=torch.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu(),
        scan={"cpu": _scan_on_cpu(kernels)} | ({"cuda": _scan_on_cuda(packages)} if gpus else {}),
        kernels=kernels,
        gpus=gpus,
        packages=packages,
    )


def _scan_on_cpu(kernels: KernelStatus) -> dict[str, str]:
    if not kernels.available:
        return {"backend": "torch", "why": f"no compiled kernels: {kernels.reason}"}
    return {"backend": "cpu", "why": f"compiled kernels, {kernels.isa}, on {kernels.threads_by}"}


def _scan_on_cuda(packages: dict[str, str | None]) -> dict[str, str]:
    batch, channels, length = EXAMPLE
    with FakeTensorMode():  # has a device and strides, and takes no memory of the GPU
        u = torch.empty(batch, length, channels, device="cuda").mT
        A, B = torch.empty(channels, STATES, device="cuda"), torch.empty(batch, STATES, length, device="cuda")
    backend = choose_gpu_backend(u, u, A, B, B)
    if backend:
        return {"backend": backend, "why": f"{backend} {packages[backend]}, for channel-last float32 as layers pass it"}
    return {"backend": "torch", "why": f"{why_not_cuda(u, A, B, B)}; {why_not_triton(u, A, B, B)}"}


def _cpu() -> dict[str, Any]:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found = facts.get("flags", facts.get("Features", "")).split()
    return {
        "name": facts.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in found],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    if find_spec(package) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
