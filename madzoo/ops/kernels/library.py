"""Finds the compiled kernels and loads them once: which instruction set serves, whose threads, and why not if not.

``MADZOO_KERNELS=off`` goes without them; ``MADZOO_KERNEL_ISA=avx512|avx2|baseline`` forces an instruction set.
"""

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from madzoo.errors import BackendError, nearest
from madzoo.ops.kernels.memory import keep_freed_memory

__all__ = ["ISAS", "KernelStatus", "instruction_set", "kernel_library", "kernel_status", "without_kernels"]

ABI_VERSION = 7  # of csrc/dispatch.c: raised together, whenever an exported function changes
ISAS = ("baseline", "avx2", "avx512")  # each serves wherever the next one does
LIBRARY = Path(__file__).with_name("_kernels.so")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelStatus:
    """Says whether the compiled kernels serve here.

    Args:
        available: whether they do.
        path: the file they were loaded from.
        isa: the instruction set in use.
        isas: those that this processor serves, the best one last.
        threads_by: whose threads they run on.
        reason: why they are absent.
    """

    available: bool
    path: str | None = None
    isa: str | None = None
    isas: tuple[str, ...] = ()
    threads_by: str | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON."""
        return asdict(self) | {"isas": list(self.isas)}


def kernel_library() -> ctypes.CDLL | None:
    """Returns the compiled kernels, loaded once, or None where there are none; one log line then says why.

    Raises:
        BackendError: when MADZOO_KERNELS or MADZOO_KERNEL_ISA asks for what is not there.
    """
    found = _load()
    return found if isinstance(found, ctypes.CDLL) and not _paused else None


def kernel_status() -> KernelStatus:
    """Returns whether the compiled kernels serve here, how, and why not.

    Raises:
        BackendError: when MADZOO_KERNELS or MADZOO_KERNEL_ISA asks for what is not there.
    """
    found = _load()
    if isinstance(found, str):
        return KernelStatus(available=False, reason=found)
    return KernelStatus(
        available=True,
        path=str(LIBRARY),
        isa=_serving["isa"],
        isas=_served(found),
        threads_by=_serving["threads_by"],
    )


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    """Runs the compiled kernels on another instruction set for a while, in every thread of this process.

    Raises:
        BackendError: when there are no kernels, or the processor lacks the instruction set.
    """
    library, before = kernel_library(), kernel_status()
    if library is None or before.isa is None:
        raise BackendError(f"the compiled kernels are not in use: {before.reason}", asked=isa)
    _choose(library, isa)
    try:
        yield
    finally:
        _choose(library, before.isa)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Goes without the compiled kernels for a while, as a machine that has none, in every thread of this process."""
    global _paused
    before, _paused = _paused, True
    try:
        yield
    finally:
        _paused = before


_paused = False

# What was chosen. The library itself holds the choice; this is what it was told last.
_serving: dict[str, str] = {}


@cache
def _load() -> ctypes.CDLL | str:
    """Returns the library, or the reason why there is none."""
    keep_freed_memory()
    try:
        library = _open()
    except (OSError, AttributeError) as error:
        reason = " ".join(str(error).split())
        _log.info("The compiled kernels are not in use, PyTorch's operators serve: %s", reason)
        return reason
    forced = os.environ.get("MADZOO_KERNEL_ISA")
    _choose(library, forced or _served(library)[-1])
    _share_threads(library)
    return library


def _open() -> ctypes.CDLL:
    wanted = os.environ.get("MADZOO_KERNELS") or "on"
    if wanted not in ("on", "off"):
        raise BackendError("MADZOO_KERNELS is neither on nor off.", asked=wanted)
    if wanted == "off":
        raise OSError("MADZOO_KERNELS=off")
    if not LIBRARY.is_file():
        raise OSError(f"{LIBRARY} was not built; with gcc or clang at hand, install madzoo again")
    library = ctypes.CDLL(str(LIBRARY))
    for name in ("madzoo_best_isa", "madzoo_set_isa", "madzoo_set_parallel", "madzoo_abi_version"):
        getattr(library, name)
    if (found := library.madzoo_abi_version()) != ABI_VERSION:
        raise OSError(f"{LIBRARY} has ABI version {found}, not {ABI_VERSION}; install madzoo again")
    library.madzoo_set_isa.argtypes = [ctypes.c_int]
    library.madzoo_set_parallel.argtypes = [ctypes.c_void_p]
    library.madzoo_set_parallel.restype = None
    return library


def _served(library: ctypes.CDLL) -> tuple[str, ...]:
    return ISAS[: library.madzoo_best_isa() + 1]


def _choose(library: ctypes.CDLL, isa: str) -> None:
    if isa not in ISAS:
        raise BackendError(
            f"unknown instruction set {isa!r}.", asked=isa, looked=", ".join(ISAS), todo=nearest(isa, ISAS)
        )
    if library.madzoo_set_isa(ISAS.index(isa)) != 0:
        served = _served(library)
        raise BackendError(
            f"this processor does not serve the instruction set {isa!r}.",
            asked=isa,
            looked=", ".join(served),
            todo=f"MADZOO_KERNEL_ISA={served[-1]}",
        )
    _serving["isa"] = isa


def _share_threads(library: ctypes.CDLL) -> None:
    """Hands torch's OpenMP runtime to the kernels, so that both run on one pool of threads.

    An OpenMP pool does not live on in a forked child: a parallel region would wait for threads that are not there. So a
    child, a data loader's worker for instance, runs its kernels on threads that it starts itself.
    """
    address = _gomp_parallel()
    library.madzoo_set_parallel(address)
    _serving["threads_by"] = "torch's OpenMP runtime" if address else "own threads"

    def in_child() -> None:
        library.madzoo_set_parallel(None)
        _serving["threads_by"] = "own threads"

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)


def _gomp_parallel() -> int | None:
    """Returns the address of the ``GOMP_parallel`` that torch itself calls, or None where torch has no such runtime.

    It is looked up as the dynamic linker did for torch: among what the process shares, then among the libraries that
    torch was linked with. Nothing is loaded for it, so there is never a second runtime.
    """
    for name in (None, torch._C.__file__):
        try:
            shared = ctypes.CDLL(name, mode=getattr(os, "RTLD_NOLOAD", 0) | ctypes.DEFAULT_MODE)
            return ctypes.cast(shared.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError, TypeError):
            continue
    return None
