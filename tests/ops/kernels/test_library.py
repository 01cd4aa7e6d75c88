"""The compiled kernels' library: found, loaded once, forced, refused, and never a reason for an exception at import."""

import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from madzoo.errors import BackendError
from madzoo.ops.kernels import library
from madzoo.ops.kernels.c_abi import kernels_are_here
from madzoo.ops.kernels.library import (
    ISAS,
    KernelStatus,
    instruction_set,
    kernel_library,
    kernel_status,
    without_kernels,
)
from madzoo.ops.selective_scan import selective_scan

built = pytest.mark.skipif(not library.LIBRARY.is_file(), reason="the kernels were not compiled")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def afresh(monkeypatch, caplog):
    """Loads the library anew under other circumstances, and puts the old choice back."""
    monkeypatch.setattr(library, "_serving", {})
    monkeypatch.delenv("MADZOO_KERNELS", raising=False)
    monkeypatch.delenv("MADZOO_KERNEL_ISA", raising=False)
    caplog.set_level(logging.INFO, logger=library.__name__)
    library._load.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    library._load.cache_clear()
    kernel_library()


def absent(caplog):
    """Returns the reason why the kernels are absent, and checks that one line gave it."""
    caplog.clear()
    assert kernel_library() is None
    assert kernel_library() is None
    status = kernel_status()
    assert status == KernelStatus(available=False, reason=status.reason)
    (record,) = caplog.records
    assert status.reason in record.message
    return status.reason


@built
def test_it_is_loaded_once(afresh):
    found = kernel_library()
    assert found is kernel_library()
    assert isinstance(found, ctypes.CDLL)
    assert found.madzoo_abi_version() == library.ABI_VERSION


@built
def test_the_best_instruction_set_serves(afresh):
    status = kernel_status()
    assert status.available
    assert status.reason is None
    assert status.isas == ISAS[: len(status.isas)]
    assert status.isa == status.isas[-1]
    assert status.to_dict()["isas"] == list(status.isas)


@built
@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no list of the processor's flags")
def test_the_best_instruction_set_is_the_processors(afresh):
    flags = Path("/proc/cpuinfo").read_text().split()
    assert ("avx512" in kernel_status().isas) <= ({"avx512f", "avx512dq", "avx512vl"} <= set(flags))
    assert ("avx2" in kernel_status().isas) <= ({"avx2", "fma"} <= set(flags))


@built
def test_an_instruction_set_can_be_forced(afresh):
    for isa in kernel_status().isas:
        afresh.setenv("MADZOO_KERNEL_ISA", isa)
        library._load.cache_clear()
        assert kernel_status().isa == isa


@built
def test_an_instruction_set_can_be_lent(afresh):
    best = kernel_status().isa
    with instruction_set("baseline"):
        assert kernel_status().isa == "baseline"
    assert kernel_status().isa == best


@built
def test_an_instruction_set_that_is_not_there_is_refused(afresh):
    afresh.setenv("MADZOO_KERNEL_ISA", "avx5")
    with pytest.raises(BackendError, match="did you mean avx512"):
        kernel_library()
    afresh.setattr(library, "ISAS", (*ISAS, "avx1024"))
    afresh.setenv("MADZOO_KERNEL_ISA", "avx1024")
    with pytest.raises(BackendError, match=r"does not serve.*\n.*\n.*baseline"):
        kernel_library()
    afresh.delenv("MADZOO_KERNEL_ISA")
    with pytest.raises(BackendError, match="avx1024"), instruction_set("avx1024"):
        pass


def test_it_can_be_switched_off(afresh, caplog):
    afresh.setenv("MADZOO_KERNELS", "off")
    assert absent(caplog) == "MADZOO_KERNELS=off"
    with pytest.raises(BackendError, match="MADZOO_KERNELS=off"), instruction_set("baseline"):
        pass
    afresh.setenv("MADZOO_KERNELS", "maybe")
    library._load.cache_clear()
    with pytest.raises(BackendError, match="neither on nor off"):
        kernel_library()


def test_it_may_be_absent(afresh, caplog, tmp_path):
    afresh.setattr(library, "LIBRARY", tmp_path / "_kernels.so")
    assert "was not built" in absent(caplog)


def test_it_may_be_of_another_platform(afresh, caplog, tmp_path):
    (tmp_path / "_kernels.so").write_bytes(b"\x7fELF of another machine")
    afresh.setattr(library, "LIBRARY", tmp_path / "_kernels.so")
    assert "_kernels.so" in absent(caplog)


@built
def test_it_may_be_of_another_version(afresh, caplog):
    afresh.setattr(library, "ABI_VERSION", -1)
    assert "ABI version" in absent(caplog)


def test_another_library_is_not_taken_for_ours(afresh, caplog):
    afresh.setattr(library, "LIBRARY", Path(torch._C.__file__))
    assert "madzoo_" in absent(caplog)


@built
@pytest.mark.skipif(not list(Path(torch.__file__).parent.glob("lib/libgomp*")), reason="torch has another runtime")
def test_threads_are_those_of_torch(afresh):
    assert kernel_status().threads_by == "torch's OpenMP runtime"
    (runtime,) = Path(torch.__file__).parent.glob("lib/libgomp*")
    function = ctypes.CDLL(str(runtime), mode=os.RTLD_NOLOAD).GOMP_parallel
    assert library._gomp_parallel() == ctypes.cast(function, ctypes.c_void_p).value


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_starts_its_own_threads():
    script = (
        "import os; from madzoo.ops.kernels.library import kernel_status as status; status();"
        "child = os.fork();"
        "print(status().threads_by, flush=True) if child == 0 else os.waitpid(child, 0)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.splitlines() == ["own threads"]


@built
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_can_scan_on_many_threads():
    script = """
import os, torch
from madzoo.ops import selective_scan
torch.set_num_threads(2)
u, states = torch.rand(1, 64, 256), torch.rand(1, 16, 256)
inputs = (u, u, -torch.rand(64, 16), states, states)
before = selective_scan(*inputs, backend="cpu")
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(selective_scan(*inputs, backend="cpu"), before) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.equal(selective_scan(*inputs, backend="cpu"), before))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120
    )
    assert ran.stdout.split() == ["0", "True"], ran.stderr


def test_nothing_is_loaded_at_import():
    script = "import madzoo.ops, madzoo.ops.kernels.library as l; print(l._load.cache_info().currsize)"
    environment = os.environ | {"MADZOO_KERNEL_ISA": "none such"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
    )
    assert ran.stdout.strip() == "0"


def test_they_can_be_left_out_for_a_while():
    found = kernel_library()
    u, A, B = torch.randn(1, 4, 5), -torch.rand(4, 2), torch.randn(1, 2, 5)
    with without_kernels():
        with without_kernels():
            assert kernel_library() is None
        assert kernel_library() is None
        y = selective_scan(u, u, A, B, B, delta_softplus=True)
        with pytest.raises(BackendError, match="without the compiled kernels"):
            selective_scan(u, u, A, B, B, delta_softplus=True, backend="cpu")
    assert kernel_library() is found
    torch.testing.assert_close(selective_scan(u, u, A, B, B, delta_softplus=True), y)


def test_a_compiler_takes_the_presence_of_kernels_as_constant():
    def marked():
        return True

    torch.compiler.assume_constant_result(marked)
    assert vars(marked).items() <= vars(kernels_are_here).items()  # what c_abi.py writes itself is what torch writes
