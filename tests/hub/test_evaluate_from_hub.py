"""A row of weights that came from the Hub names the commit they were read at, also when the branch has moved on."""

from pathlib import Path

import pytest
from hub.published import FORECASTER, made

from madzoo.hub import push
from madzoo.workflows.evaluate import evaluate
from tests.workflows.tiny_data import make_data
from tests.workflows.tiny_series import add_collections

REPO, BENCHMARK = "alice/measured", "monash-m3-other"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "all").mkdir()
    (tmp_path / "made").mkdir()
    return add_collections(make_data(tmp_path / "made"), tmp_path / "all")


def test_the_commit_stands_in_the_row(hub, alice, tmp_path: Path, data: Path) -> None:
    folder = made(tmp_path)
    first = push(folder, REPO)
    (row,) = evaluate(f"hf-hub:{REPO}", benchmark=BENCHMARK, data_dir=data)
    assert row.weights_commit == first.commit and len(first.commit) == 40
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nA line by hand.\n")
    second = push(folder, REPO)
    (moved,) = evaluate(f"hf-hub:{REPO}", benchmark=BENCHMARK, data_dir=data)
    assert moved.weights_commit == second.commit != first.commit
    (back,) = evaluate(f"hf-hub:{REPO}@{first.commit}", benchmark=BENCHMARK, data_dir=data)
    assert back.weights_commit == first.commit and back.metrics == moved.metrics == row.metrics
    (bundled,) = evaluate(FORECASTER, benchmark=BENCHMARK, data_dir=data)
    assert bundled.weights_commit is None and bundled.weights_sha256 == row.weights_sha256
