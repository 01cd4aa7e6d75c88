"""The catalog, the local data folder, and batches of series by step."""

import dataclasses
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from madzoo.data.catalog import DATASETS, data_dir, find_dataset, local_files
from madzoo.data.load import load_image_split, load_table
from madzoo.data.series_steps import SyntheticSteps, WindowSteps
from madzoo.data.windows import Windows
from madzoo.errors import ConfigError, DataError
from madzoo.registry import TASKS


def test_every_data_set_is_described():
    for spec in DATASETS.values():
        assert spec.task in TASKS and spec.license
        if spec.task == "image-classification":
            assert len(spec.class_names) == spec.num_classes and len(spec.mean) == len(spec.std) == spec.channels


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        find_dataset("cifar")
    with pytest.raises(ConfigError, match="no split 'valid'"):
        local_files(find_dataset("cifar10"), "valid")


def test_folder_order_argument_then_environment(tmp_path, monkeypatch):
    assert data_dir() is None
    monkeypatch.setenv("MADZOO_DATA_DIR", str(tmp_path))
    assert data_dir() == tmp_path
    (other := tmp_path / "other").mkdir()
    assert data_dir(other) == other
    with pytest.raises(DataError, match="does not exist"):
        data_dir(tmp_path / "absent")
    with pytest.raises(DataError, match=r"lacks etth1[\s\S]*ETTh1.parquet"):
        local_files(find_dataset("etth1"), "all")


def test_tables_are_read_as_they_are(tmp_path):
    table = pd.DataFrame({"date": pd.date_range("2020", periods=4, freq="h"), "OT": [0.1, 0.2, 0.3, 0.4]})
    (tmp_path / "ett").mkdir()
    table.to_parquet(tmp_path / "ett" / "ETTh1.parquet")
    pd.testing.assert_frame_equal(load_table(find_dataset("etth1"), folder=tmp_path), table)


def test_damaged_table_is_named(tmp_path):
    (tmp_path / "ett").mkdir()
    (tmp_path / "ett" / "ETTh1.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="could not be read"):
        load_table(find_dataset("etth1"), folder=tmp_path)


def some_windows():
    return Windows(values=torch.arange(30.0)[:, None], context_length=4, prediction_length=2, start=0, stop=30)


def test_each_epoch_shows_each_window_once():
    windows = some_windows()
    steps = WindowSteps(windows, batch_size=5, seed=0)
    assert steps.steps_per_epoch == len(windows) // 5 == 5
    for epoch in (0, 1):
        starts = torch.cat([steps[5 * epoch + i][0][:, 0, 0] for i in range(5)])
        assert sorted(starts.tolist()) == list(range(25))
    assert not torch.equal(steps[0][0], steps[5][0])


def test_windows_are_shared_among_processes():
    whole = WindowSteps(some_windows(), batch_size=6, seed=2)[3][1]
    parts = [WindowSteps(some_windows(), batch_size=6, seed=2, rank=r, world=2)[3][1] for r in (0, 1)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


def test_synthetic_steps_are_fresh_and_repeatable():
    make = {"context_length": 48, "prediction_length": 12, "batch_size": 8, "steps_per_epoch": 3, "seed": 5}
    steps, again = SyntheticSteps("synthetic", **make), SyntheticSteps("synthetic", **make)
    past, future = steps[4]
    assert past.shape == (8, 48, 1) and future.shape == (8, 12, 1) and future.isfinite().all()
    assert torch.equal(future, again[4][1]) and not torch.equal(future, steps[5][1])
    other = SyntheticSteps("synthetic", **make, rank=1, world=2)[4][1]
    assert other.shape == (4, 12, 1) and not torch.equal(
        other, SyntheticSteps("synthetic", **make, rank=0, world=2)[4][1]
    )


def test_image_sets_without_an_address_need_a_folder():
    with pytest.raises(DataError, match=r"no public address[\s\S]*--data-dir"):
        load_image_split(find_dataset("imagenette_128"), "train")


def test_every_image_set_draws_as_many_validation_rows_as_it_says(tmp_path):
    spec = dataclasses.replace(find_dataset("fashion_mnist"), files={"train": ("set.parquet",)}, validation_rows=2)
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}] * 7
    pq.write_table(pa.table({"image": images, "label": list(range(7))}), tmp_path / "set.parquet")
    train, validation = (load_image_split(spec, part, folder=tmp_path).labels for part in ("train", "validation"))
    assert len(validation) == 2 and sorted([*train.tolist(), *validation.tolist()]) == list(range(7))
