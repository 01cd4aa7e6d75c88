"""Two processes that share a benchmark write the rows of one, bit for bit, and the first alone writes."""

import dataclasses
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from madzoo.errors import DataError
from madzoo.evaluation import ResultRow
from madzoo.evaluation.result_files import read_results
from madzoo.workflows import evaluate_pair
from madzoo.workflows.evaluate import evaluate
from madzoo.workflows.evaluate_all import evaluate_all
from madzoo.workflows.processes import process_shard
from tests.forks import FORKS
from tests.workflows.tiny_data import make_classifier, make_forecaster
from tests.workflows.tiny_series import add_collections

ROOT = Path(__file__).parents[2]
PROCESSES = 2
# 70 images are five batches of 16, 2,785 windows eleven of 256, seven series at most two of a length at a time: one
# process takes a batch more than the other, and the last one is short.
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("classifier", {"dataset": "fashion_mnist", "batch_size": 16}),
    ("forecaster", {"dataset": "etth1", "batch_size": 256}),
    ("forecaster", {"benchmark": "monash-m3-other,monash-m3-yearly", "batch_size": 2}),
)


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def launched(rank: int, port: int, work, *words) -> None:
    """What torchrun sets for a process."""
    told = {"RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    torch.set_num_threads(1)
    work(rank, *words)


def together(work, *words) -> None:
    port = free_port()
    started = [FORKS.Process(target=launched, args=(rank, port, work, *words)) for rank in range(PROCESSES)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=90)
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
    assert [process.exitcode for process in started] == [0] * PROCESSES


def without_time(row: ResultRow) -> ResultRow:
    return dataclasses.replace(row, seconds=0.0, threads=None)


def measured(root: Path, data: Path, *, out: Path | None = None) -> list[ResultRow]:
    rows = []
    for place, (folder, options) in enumerate(CASES):
        rows += evaluate(root / folder, data_dir=data, out=out / str(place) if out else None, **options)
    return rows


def everything(rank: int, root: Path, data: Path) -> None:
    """All that a process does: two data sets, a sweep, and a data set that one of the two lacks."""
    found = measured(root, data, out=root / "files")
    swept = evaluate_all("fashion_mnist", out=root / "sweep-two", pattern="*28.fashion*", data_dir=data, batch_size=16)
    again = evaluate_all("fashion_mnist", out=root / "sweep-two", pattern="*28.fashion*", data_dir=data, batch_size=16)
    failed = ""
    try:
        evaluate(root / "forecaster", "etth1", data_dir=data if rank == 0 else root)
    except DataError as error:
        failed = str(error)
    told = (found, swept.rows, [one.status for one in again.outcomes], failed)
    (root / f"rank-{rank}").write_bytes(pickle.dumps(told))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("two")
    make_classifier(root / "classifier")
    make_forecaster(root / "forecaster")
    (root / "data").mkdir()
    together(everything, root, add_collections(data_folder, root / "data"))
    return root


def test_two_processes_find_the_bits_of_one(root: Path) -> None:
    alone = measured(root, root / "data")
    assert [row.n for row in alone] == [70, 2785, 7, 7]
    for rank in range(PROCESSES):
        found, *_ = pickle.loads((root / f"rank-{rank}").read_bytes())
        assert [without_time(row) for row in found] == [without_time(row) for row in alone]
        assert [row.threads for row in found] == [PROCESSES] * 4 and [row.threads for row in alone] == [1] * 4
    written = [row for place in range(len(CASES)) for row in read_results(root / "files" / str(place))]
    assert [without_time(row) for row in written] == [without_time(row) for row in alone]


def test_they_share_a_sweep(root: Path, data_folder: Path, tmp_path: Path) -> None:
    alone = evaluate_all("fashion_mnist", out=tmp_path, pattern="*28.fashion*", data_dir=data_folder, batch_size=16)
    for rank in range(PROCESSES):
        _, rows, statuses, _ = pickle.loads((root / f"rank-{rank}").read_bytes())
        assert [without_time(row) for row in rows] == [without_time(row) for row in alone.rows]
        assert statuses == ["kept"]


def test_what_one_of_them_lacks_both_refuse(root: Path) -> None:
    failures = [pickle.loads((root / f"rank-{rank}").read_bytes())[3] for rank in range(PROCESSES)]
    assert failures[0] == failures[1] and "lacks etth1" in failures[0]


def test_one_process_is_alone() -> None:
    shard = process_shard()
    assert (shard.rank, shard.world) == (0, 1) and shard.gather(3) == [3]
    assert evaluate_pair.ALONE.map(str, range(2)) == ["0", "1"]


@pytest.mark.slow
def test_torchrun_launches_the_script(root: Path, data_folder: Path, tmp_path: Path) -> None:
    words = [f"local-dir:{root / 'classifier'}", "fashion_mnist", "--batch-size", "16", "--data-dir", str(data_folder)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES)]
    torchrun += ["--master-port", str(free_port())]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        command = [*launcher, str(ROOT / "scripts" / "evaluate.py"), *words, "--out", str(tmp_path / name)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("top1") == 1  # the first process alone speaks
    one, two = (read_results(tmp_path / name)[0] for name in ("one", "two"))
    assert without_time(one) == without_time(two) and (one.threads, two.threads) == (1, 2)
