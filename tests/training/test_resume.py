"""A run killed with SIGKILL and started again ends with the same bytes as one that was never stopped."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from madzoo.errors import CheckpointError
from madzoo.training.run_state import RunFiles
from tests.forks import run_forked
from tests.training.tiny_run import main

SCRIPT = Path(__file__).with_name("tiny_run.py")


def run(folder, *when):
    command = [sys.executable, str(SCRIPT), str(folder), *when]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def forked(folder, when=None):
    """Runs the same in a process that starts sooner and hashes otherwise."""
    return run_forked(main, folder, when, said=folder.with_name(f"{folder.name}-{when}"))


def run_on_two(folder, *when):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"]
    return subprocess.run([*launcher, str(SCRIPT), str(folder), *when], capture_output=True, text=True, timeout=600)


def digest(state):
    hasher = hashlib.sha256()
    for name in sorted(state):
        hasher.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return hasher.hexdigest()


def outcome(folder):
    state = torch.load(folder / "state.pt", weights_only=True)
    moments = {f"{i}.{key}": value for i, slot in state["optimizer"]["state"].items() for key, value in slot.items()}
    weights = {part: digest(state[part]) for part in ("model", "average", "best")}
    return weights, digest(moments), state["progress"], (folder / "log.jsonl").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return outcome(folder)


@pytest.mark.parametrize(
    "when", ["write", *(pytest.param(when, marks=pytest.mark.slow) for when in ("epoch", "validation"))]
)
def test_killed_and_resumed_equals_unbroken(tmp_path, unbroken, when):
    killed = forked(tmp_path, when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "state.pt").exists()
    resumed = forked(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path) == unbroken
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


def test_stopped_by_the_clock_and_resumed_equals_unbroken(tmp_path, unbroken):
    assert forked(tmp_path, "minutes").stdout.strip() == "stopped at 1"
    assert run(tmp_path).stdout.strip() == "finished"
    assert outcome(tmp_path) == unbroken


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bytes(tmp_path):
    done = run_on_two(tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert run_on_two(tmp_path / "part", "minutes").returncode == 0
    assert run_on_two(tmp_path / "part").returncode == 0
    assert outcome(tmp_path / "part") == outcome(tmp_path / "whole")
    events = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert len(set(events)) == len(events)  # one process logs, for both


@pytest.mark.slow
def test_two_processes_train_on_one_batch_together(tmp_path, unbroken):
    """Each takes half of every batch, so that their joint weights differ from those of two lone runs."""
    done = run_on_two(tmp_path)
    assert done.stdout.count("finished") == 2, done.stderr
    assert outcome(tmp_path)[0] != unbroken[0]
    assert outcome(tmp_path)[2]["step"] == unbroken[2]["step"]


def test_run_of_another_recipe_is_refused(tmp_path):
    files = RunFiles(tmp_path)
    files.save({"recipe": {"name": "other"}})
    refused = forked(tmp_path)
    assert refused.returncode == 1
    assert "a run of another recipe" in refused.stderr


def test_damaged_state_is_refused(tmp_path):
    files = RunFiles(tmp_path)
    files.save({"recipe": {}})
    content = files.state_path.read_bytes()
    files.state_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        files.load()


def test_log_is_cut_back_to_the_state(tmp_path):
    files = RunFiles(tmp_path)
    files.log({"step": 1})
    files.save({"step": 1})
    files.log({"step": 2})
    assert files.load()["step"] == 1
    assert files.log_path.read_text() == '{"step": 1}\n'
