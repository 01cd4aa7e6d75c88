"""The baseline kernels on ARM, run by an emulator: the same numbers as on the processor at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from madzoo.ops.kernels import library

CSRC = library.LIBRARY.parent / "csrc"
PROGRAM = Path(__file__).with_name("scan_outputs.c")
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread", f"-I{CSRC}"]
ARM, EMULATOR = PROGRAMS = ("aarch64-linux-gnu-gcc", "qemu-aarch64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]


def outputs(*command):
    """Runs the program; returns [(which result of which problem, its numbers)]."""
    written = subprocess.run([*map(str, command)], capture_output=True, check=True).stdout
    numbers = torch.frombuffer(bytearray(written), dtype=torch.float64)
    found, start = [], 0
    while start < len(numbers):
        name, count = chr(int(numbers[start])), int(numbers[start + 1])
        found.append((name, numbers[start + 2 : start + 2 + count]))
        start += 2 + count
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    here, arm = folder / "here", folder / "arm"
    for compiler, program in ((["gcc"], here), ([ARM, "-static"], arm)):
        subprocess.run([*compiler, *FLAGS, PROGRAM, *CSRC.glob("*.c"), "-o", program], check=True)
    return outputs(here), outputs(EMULATOR, arm)


def test_arm_computes_the_same(both):
    here, arm = both
    assert [name for name, _ in here] == [name for name, _ in arm]
    assert len(here) > 60
    for position, ((name, ours), (_, theirs)) in enumerate(zip(here, arm, strict=True)):
        assert ours.isfinite().all()
        single = bool((ours == ours.float()).all())
        scale = ours.abs().max().clamp(min=1e-3)  # one step has no gradient of A
        error = float((ours - theirs).abs().max() / scale)
        assert error <= (1e-6 if single else 1e-13), f"result {position}, {name}: {error}"


def test_the_vectors_of_arm_are_used(tmp_path):
    listing = tmp_path / "baseline.s"
    subprocess.run([ARM, "-S", *FLAGS, CSRC / "isa_baseline.c", "-o", listing], check=True)
    said = listing.read_text()
    assert said.count("fmla\tv") + said.count("fmls\tv") > 100
    assert "exp" not in {line.split()[-1] for line in said.splitlines() if "\tbl\t" in line}
