"""The Triton kernels as machine code: an interpreter knows neither types nor registers. No GPU is needed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("triton is not installed: its kernels are not compiled here", allow_module_level=True)

HERE = Path(__file__).parent
SLOW = ("bfloat16-64", "float16-4", "float32-1", "float32-256", "float64-16")


@pytest.mark.parametrize("case", ["float32-16", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_kernels_compile_and_spill_little(case, tmp_path):
    # A process of its own: whether kernels are compiled or interpreted is settled when they are defined.
    changes = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(HERE.parents[2])}
    command = [sys.executable, "-W", "ignore", str(HERE / "compile_triton.py"), case]
    ran = subprocess.run(command, env=os.environ | changes, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert set(found) == {"forward_kernel", "backward_kernel"}
    for kernel, used in found.items():
        assert used["stack"] <= 512, f"{kernel} keeps {used['stack']} bytes a thread in memory, beside its registers"
