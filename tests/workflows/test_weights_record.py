"""What a row says of the weights: name, hash, seed as their own folder has it, and their commit on the Hub."""

import dataclasses
from pathlib import Path

import pytest

from madzoo.checkpoint.folder import find_bundled, read_folder
from madzoo.errors import UnknownTagError
from madzoo.evaluation import ResultRow
from madzoo.workflows import weights_record as under_test
from madzoo.workflows.evaluate import record_rows
from madzoo.workflows.weights_record import create_measured, weights_record
from tests.workflows.tiny_data import make_classifier

NANO = "patch_s4d_nano_512_96.etth1"


def row(sha256: str | None, seed: int | None) -> ResultRow:
    return ResultRow(
        model="m", weights_sha256=sha256, dataset="d", split="test", n=1, metrics={"top1": 1.0}, seed=seed, seconds=0.0
    )


def test_of_a_bundled_model() -> None:
    found = weights_record(NANO, create_measured(NANO))
    folder = find_bundled(NANO)
    assert folder is not None
    expected = {"name": NANO, "weights_sha256": read_folder(folder).sha256, "weights_commit": None, "seed": 0}
    assert found == expected
    assert weights_record(NANO, create_measured(NANO), seed=5)["seed"] == 5


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_of_a_folder_whose_rows_are_of_these_weights(tmp_path: Path, prefix: str) -> None:
    folder = make_classifier(tmp_path / "toy")
    name = f"{prefix}{folder}"
    assert weights_record(name, create_measured(name))["seed"] is None
    sha256 = read_folder(folder).sha256
    record_rows(folder, [row(sha256, 3)])
    assert weights_record(name, create_measured(name))["seed"] == 3
    record_rows(folder, [dataclasses.replace(row("0" * 64, 4), model="other")], role="other_seeds")
    assert weights_record(name, create_measured(name))["seed"] == 3


def test_the_commit_is_asked_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_measured(f"local-dir:{make_classifier(tmp_path / 'toy')}")
    asked = []
    monkeypatch.setattr(under_test, "commit_of", lambda location: asked.append(location) or "e" * 40)
    found = weights_record("hf-hub:org/model@v2", model)
    assert found["weights_commit"] == "e" * 40 and found["seed"] is None
    assert (asked[0].kind, asked[0].repo, asked[0].revision) == ("hub", "org/model", "v2")


def test_a_model_without_parameters_has_no_weights() -> None:
    found = weights_record("seasonal_naive_7_364_28", create_measured("seasonal_naive_7_364_28"))
    assert (found["weights_sha256"], found["weights_commit"], found["seed"]) == (None, None, None)
    with pytest.raises(UnknownTagError):
        create_measured("patch_s4d_nano_512_96.nothing")
