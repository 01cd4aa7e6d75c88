"""A sweep on two workers of a local Ray finds the table of one process, and leaves no Ray behind."""

import dataclasses
from pathlib import Path

import pytest

from madzoo.errors import ConfigError
from madzoo.workflows import ray_tasks
from madzoo.workflows.evaluate_all import evaluate_all
from madzoo.workflows.ray_tasks import RaySpread
from tests.workflows.tiny_series import add_collections

BENCHMARKS, PATTERN = "monash-m3-yearly,monash-m3-other,monash-nn5-daily", "patch_s4d_nano_512_96.etth?"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tasks, "ray", None)
    with pytest.raises(ConfigError, match=r"madzoo\[ray\]"):
        RaySpread()


def test_a_sweep_needs_a_worker() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="at least one worker"):
        RaySpread(workers=0)


@pytest.mark.slow
def test_two_workers_find_the_table_of_one_process(data_folder: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    (tmp_path / "data").mkdir()
    folder = add_collections(data_folder, tmp_path / "data")
    shared = {"pattern": PATTERN, "data_dir": folder}
    spread = evaluate_all(BENCHMARKS, out=tmp_path / "ray", spread=RaySpread(workers=2), **shared)
    assert not ray.is_initialized()
    alone = evaluate_all(BENCHMARKS, out=tmp_path / "one", **shared)
    plain = [[dataclasses.replace(row, seconds=0.0) for row in found.rows] for found in (spread, alone)]
    assert plain[0] == plain[1] and len(plain[0]) == 4
    assert (tmp_path / "ray" / "table.md").read_text() == (tmp_path / "one" / "table.md").read_text()
    for found in (spread, alone):
        assert [(one.pair.benchmark, one.status) for one in found.outcomes] == [
            *[("monash-m3-yearly", "measured")] * 2,
            *[("monash-m3-other", "measured")] * 2,
            *[("monash-nn5-daily", "failed")] * 2,  # of which the folder has no data
        ]
    names = [sorted(path.name for path in (tmp_path / run / "pairs").iterdir()) for run in ("ray", "one")]
    assert names[0] == names[1]
    again = evaluate_all(BENCHMARKS, out=tmp_path / "ray", spread=RaySpread(workers=2), **shared)
    assert again.count("kept") == 4 and again.rows == spread.rows
