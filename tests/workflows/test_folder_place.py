"""Where a packed folder may stand, and what becomes of an older one: its reports, and a crash half-way."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from madzoo.checkpoint.card import check_card, write_card
from madzoo.checkpoint.folder import read_folder
from madzoo.checkpoint.report_files import read_report
from madzoo.cli import app
from madzoo.errors import CheckpointError, ConfigError
from madzoo.evaluation import ResultRow
from madzoo.factory import create_model
from madzoo.workflows import quantize_levels, quantize_task, training_task
from madzoo.workflows.evaluate import record_rows
from madzoo.workflows.folder_place import check_place, keep_reports, publish, staged
from madzoo.workflows.quantize import quantize
from tests.workflows.tiny_data import make_forecaster

NAME = "patch_s4d_nano_512_96.etth1-int4"
HUB = "madzoo/etth1"


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_task, "VALIDATION_SERIES", 256)
        patch.setattr(quantize_task, "CALIBRATION", 32)
        patch.setattr(quantize_levels, "OBSERVER", "min_max")
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_forecaster(tmp_path_factory.mktemp("start") / "weights", dataset="synthetic")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, start: Path) -> tuple[Path, Path]:
    """Two packed folders of one name and other weights; the first evaluated."""
    place = tmp_path_factory.mktemp("packed")
    for name, group_size in (("a", None), ("b", 4)):
        quantize(start, bits=4, policy="rtn", group_size=group_size, out=place / name)
    evaluate(place / "a")
    create_model(f"local-dir:{place / 'a'}", verify=True)
    return place / "a", place / "b"


def evaluate(folder: Path) -> None:
    """Records a row, as an evaluation does, and renders the card."""
    row = ResultRow(
        model=NAME, weights_sha256=read_folder(folder).sha256, dataset="etth1", data_fingerprint="f" * 64, split="test",
        n=2785, metrics={"mse": 0.5}, settings={"horizon": 96, "hub_id": HUB}, seconds=0.0,
    )  # fmt: skip
    record_rows(folder, [row])
    write_card(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["itself", "inside", "link", "link inside", "by its absolute path", "other float"])
def test_the_source_is_never_written(tmp_path: Path, start: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(shutil.copytree(start, tmp_path / "src"))
    (tmp_path / "link").symlink_to(source)
    shutil.copytree(start, tmp_path / "other")
    before = contents(source) | contents(tmp_path / "other")
    out = {
        "itself": "src", "inside": "src/packed/int4", "link": "link", "link inside": "link/packed",
        "by its absolute path": source, "other float": "other",
    }[how]  # fmt: skip
    asked = ["quantize", "local-dir:src", "--bits", "4", "--policy", "rtn", "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code != 0 and isinstance(result.exception, SystemExit | ConfigError)
    assert contents(source) | contents(tmp_path / "other") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "other", "src"]


def test_what_holds_something_else_is_refused(tmp_path: Path, start: Path, packed: tuple[Path, Path]) -> None:
    def refused(words: str, out: Path, name: str = NAME, kind: type[Exception] = ConfigError) -> None:
        with pytest.raises(kind, match=words):
            check_place(out, name=name, packed=True, source=start, source_name="patch_s4d_nano_512_96.etth1")

    refused("holds the packed weights", packed[0], name=NAME.replace("int4", "int8"))
    (tmp_path / "file").write_text("")
    refused("is a file", tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused("cannot be looked at|cannot be written|is a file", tmp_path / "loop")
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "notes.txt").write_text("mine")
    check_place(tmp_path / "prose", name=NAME, packed=True, source=start, source_name="")
    (tmp_path / "prose" / "README.md").write_text("mine")
    refused("holds README.md", tmp_path / "prose")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(start / "model.safetensors", bare)
    refused("other weights", bare)
    shutil.copy(packed[0] / "model.safetensors", bare)
    check_place(bare, name=NAME, packed=True, source=start, source_name="")  # what a killed run leaves
    (bare / "config.json").write_text("{")
    refused("no readable JSON", bare, kind=CheckpointError)
    damaged = Path(shutil.copytree(packed[0], tmp_path / "damaged"))
    (damaged / "geometry.json").write_text("[")
    refused("no readable report", damaged, kind=CheckpointError)


def test_reports_go_with_their_weights_and_stay_with_them(
    tmp_path: Path, start: Path, packed: tuple[Path, Path]
) -> None:
    out = Path(shutil.copytree(packed[0], tmp_path / "out"))
    (out / "notes.txt").write_text("mine")
    again = quantize(start, bits=4, policy="rtn", out=out)
    assert again.dropped == () and contents(out) == contents(packed[0]) | {"notes.txt": b"mine"}
    choices: dict[str, Any] = {"qat": True, "steps": 2, "lr": 0.01, "out": out, "run_dir": tmp_path / "run"}
    found = quantize(start, bits=4, **choices)
    assert found.dropped == ("evaluation.json",) and found.folder == out
    assert not (out / "evaluation.json").exists() and not list((out / ".eval_results").iterdir())
    assert (out / "notes.txt").read_text() == "mine" and not (tmp_path / ".out.partial").exists()
    check_card(out)
    evaluate(out)
    held = contents(out)
    assert quantize(start, bits=4, **choices).dropped == () and contents(out) == held


@pytest.mark.parametrize("older", [0, 1, None])
def test_a_crash_at_any_move_is_mended_by_a_repeat(
    tmp_path: Path, start: Path, packed: tuple[Path, Path], older: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = 1 if older == 0 else 0
    wanted = contents(packed[newer])
    for crash in range(20):
        out = tmp_path / f"{crash}" / "out"
        if older is None:
            out.mkdir(parents=True)
        else:
            shutil.copytree(packed[older], out)
        (out.parent / ".out.partial" / "left").mkdir(parents=True)  # by a run that was killed
        with monkeypatch.context() as patch:
            moves = iter(range(crash))

            def counted(method: Any, moves: Any = moves) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    if next(moves, None) is None:
                        raise KeyboardInterrupt
                    return method(*args, **kwargs)

                return call

            for name in ("replace", "unlink"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                publish_copy(packed[newer], out)
                assert crash > 3
                break
            except KeyboardInterrupt:
                pass
        check_place(out, name=NAME, packed=True, source=start, source_name="")
        publish_copy(packed[newer], out)
        assert contents(out) == wanted
    else:
        pytest.fail("never came to an end")


def publish_copy(folder: Path, out: Path) -> None:
    """Does what a quantization does that comes to the weights of a folder."""
    with staged(out) as stage:
        shutil.copytree(folder, stage, dirs_exist_ok=True)
        keep_reports(out, stage)
        publish(stage, out)
    assert not stage.exists()


def test_a_report_is_kept_after_a_crash_on_the_way_to_other_weights(
    tmp_path: Path, packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(packed[0], tmp_path / "out"))
    bare = Path(shutil.copytree(packed[0], tmp_path / "bare"))
    (bare / "evaluation.json").unlink()
    shutil.rmtree(bare / ".eval_results")
    write_card(bare)
    shutil.copy(packed[1] / "model.safetensors", out)  # killed here
    with staged(out) as stage:
        shutil.copytree(bare, stage, dirs_exist_ok=True)
        keep_reports(out, stage)
        write_card(stage)
        assert publish(stage, out) == ()
    assert read_report(out, "evaluation.json") == read_report(packed[0], "evaluation.json")
    check_card(out)


def test_a_folder_that_does_not_load_replaces_nothing(
    tmp_path: Path, start: Path, packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(packed[0], tmp_path / "out"))

    def fail(*args: Any, **kwargs: Any) -> None:
        raise CheckpointError("no")

    monkeypatch.setattr("madzoo.workflows.quantize.write_prose", fail)
    with pytest.raises(CheckpointError, match="no"):
        quantize(start, bits=4, policy="rtn", group_size=4, out=out)
    assert contents(out) == contents(packed[0]) and [path.name for path in tmp_path.iterdir()] == ["out"]
