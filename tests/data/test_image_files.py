"""Pictures on disk: class folders, Parquet of several forms, their parts, and what is refused."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from madzoo.data.image_files import LabelledPictures, PictureFormat, decode_pictures, read_class_folders
from madzoo.data.image_tables import read_parts
from madzoo.data.images import normalize
from madzoo.data.transforms import create_transform
from madzoo.errors import ConfigError, DataError

FORM = PictureFormat(size=(3, 8, 8))


def picture(value=0, size=(10, 12), mode="RGB"):
    rng = np.random.default_rng(value)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(value=0):
    buffer = io.BytesIO()
    picture(value).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(i).save(folder / name / f"{i}.png")
    return folder


def table(path, labels, *, form="struct", label="label", names=None):
    cells = [encoded(i) for i in range(len(labels))]
    images = [{"bytes": cell, "path": None} for cell in cells] if form == "struct" else cells
    written = pa.table({"image": images, label: labels})
    if names:
        told = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        written = written.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(written, path)
    return path


class Asked(torch.nn.Module):
    """A model that says how its pictures are prepared, and nothing else."""

    def __init__(self, form):
        super().__init__()
        self.pretrained_cfg = {
            "input_size": form.size, "mean": (0.5,) * form.size[0], "std": (0.25,) * form.size[0],
            "interpolation": form.interpolation, "crop_pct": form.crop_pct,
        }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 40), (50, 37), (37, 51), (9, 20), (32, 32)])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(1.0, "bicubic"), (0.875, "bilinear"), (0.9, "bicubic")])
def test_pictures_are_fitted_as_in_evaluation(channels, size, crop_pct, interpolation):
    form = PictureFormat(size=(channels, 32, 32), crop_pct=crop_pct, interpolation=interpolation)
    image = picture(1, size)
    ours = normalize(torch.from_numpy(form.fit(image).copy())[None], (0.5,) * channels, (0.25,) * channels)[0]
    torch.testing.assert_close(ours, create_transform(Asked(form))(image), rtol=0, atol=1e-6)


def test_class_folders_give_names_in_order(tmp_path):
    fill(tmp_path, {"bee": 3, "ant": 2})
    (tmp_path / "ant" / "deeper").mkdir()
    picture().save(tmp_path / "ant" / "deeper" / "third.jpg")
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"no picture")
    (tmp_path / ".cache").mkdir()
    found, held_out = read_parts(tmp_path)
    assert held_out is None and found.class_names == ("ant", "bee") and found.labels == [0, 0, 0, 1, 1, 1]
    arrays = decode_pictures(found, FORM)
    assert arrays.images.shape == (6, 3, 8, 8) and arrays.num_classes == 2
    np.testing.assert_array_equal(arrays.images[0].numpy(), FORM.fit(picture(0)))


@pytest.mark.parametrize("word", ["validation", "valid", "val"])
def test_folders_of_parts(tmp_path, word):
    fill(tmp_path / "train", {"ant": 2, "bee": 2, "cow": 1})
    fill(tmp_path / word, {"cow": 2, "ant": 1})
    fill(tmp_path / "test", {"dog": 1, "eel": 1})
    train, held_out = read_parts(tmp_path)
    assert train.class_names == held_out.class_names == ("ant", "bee", "cow")
    assert held_out.labels == [0, 2, 2]
    fill(tmp_path / word, {"dog": 1})
    with pytest.raises(DataError, match=r"'dog' is no class of the training part"):
        read_parts(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"bus": 1, "train": 1})
    assert read_parts(tmp_path)[0].class_names == ("bus", "train")


@pytest.mark.parametrize("form", ["struct", "bytes"])
def test_parquet_with_text_labels(tmp_path, form):
    found, held_out = read_parts(table(tmp_path / "a.parquet", ["b", "a", "b"], form=form))
    assert held_out is None and found.class_names == ("a", "b") and found.labels == [1, 0, 1]
    assert decode_pictures(found, FORM).images.shape == (3, 3, 8, 8)


def test_parquet_with_numbers_and_declared_names(tmp_path):
    found, _ = read_parts(table(tmp_path / "a.parquet", [2, 0], names=["x", "y", "z"]))
    assert found.class_names == ("x", "y", "z") and found.labels == [2, 0]
    found, _ = read_parts(table(tmp_path / "b.parquet", [7, 3, 7]))
    assert found.class_names == ("3", "7") and found.labels == [1, 0, 1]


def test_parquet_parts_and_columns(tmp_path):
    table(tmp_path / "train-00000-of-00002.parquet", ["a", "b"], label="kind")
    table(tmp_path / "train-00001-of-00002.parquet", ["c", "b"], label="kind")
    table(tmp_path / "validation-00000-of-00001.parquet", ["c", "a"], label="kind")
    table(tmp_path / "test-00000-of-00001.parquet", ["q", "a"], label="kind")
    train, held_out = read_parts(tmp_path, label_column="kind", image_column="image")
    assert train.class_names == held_out.class_names == ("a", "b", "c")
    assert train.labels == [0, 1, 2, 1] and held_out.labels == [2, 0]
    table(tmp_path / "validation-00000-of-00001.parquet", ["d"], label="kind")
    with pytest.raises(DataError, match="'d' is no class of the training part"):
        read_parts(tmp_path, label_column="kind")


def test_a_test_part_is_never_trained_on(tmp_path):
    table(tmp_path / "test-00000-of-00001.parquet", ["a", "b"])
    with pytest.raises(DataError, match="no training part"):
        read_parts(tmp_path)
    table(tmp_path / "more.parquet", ["c", "d"])
    assert read_parts(tmp_path)[0].class_names == ("c", "d")


def test_held_out_numbers_mean_what_they_mean_in_training(tmp_path):
    table(tmp_path / "train.parquet", [3, 5, 9])
    table(tmp_path / "val.parquet", [9, 3])
    train, held_out = read_parts(tmp_path)
    assert train.class_names == held_out.class_names == ("3", "5", "9")
    assert held_out.labels == [2, 0]


def test_the_split_is_stratified_drawn_once_and_by_the_seed(tmp_path):
    found, _ = read_parts(fill(tmp_path, {"ant": 2, "bee": 30}))
    rest, drawn = found.split(0.1, seed=0)
    assert drawn.labels == [0, 1, 1, 1] and len(rest.pictures) == 28
    assert sorted([*rest.pictures, *drawn.pictures]) == sorted(found.pictures)
    assert found.split(0.1, seed=0)[1].pictures == drawn.pictures != found.split(0.1, seed=1)[1].pictures
    assert rest.labels == [found.class_names.index(path.parent.name) for path in rest.pictures]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        found.split(1.0, seed=0)


def test_one_picture_of_a_class_cannot_be_split(tmp_path):
    found, _ = read_parts(fill(tmp_path, {"ant": 1, "bee": 3}))
    with pytest.raises(DataError, match="'ant' has 1 picture"):
        found.split(0.5, seed=0)


def test_folders_that_teach_nothing_are_refused(tmp_path):
    with pytest.raises(DataError, match="there are no such data"):
        read_parts(tmp_path / "absent")
    with pytest.raises(DataError, match="there is no picture"):
        read_parts(tmp_path)
    fill(tmp_path, {"ant": 2})
    with pytest.raises(DataError, match=r"only one class[\s\S]*ant"):
        read_parts(tmp_path)
    (tmp_path / "bee").mkdir()
    with pytest.raises(DataError, match="'bee' holds no picture"):
        read_class_folders(tmp_path)
    with pytest.raises(DataError, match="no columns"):
        read_parts(tmp_path, label_column="kind")


def test_damaged_pictures_are_named(tmp_path):
    fill(tmp_path, {"ant": 1, "bee": 1})
    (tmp_path / "bee" / "broken.png").write_bytes(encoded()[:60])
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*broken\.png"):
        decode_pictures(read_parts(tmp_path)[0], FORM)
    pictures = LabelledPictures(pictures=[encoded(), b""], labels=[0, 1], class_names=("a", "b"), origin="memory")
    with pytest.raises(DataError, match="memory, row 1"):
        decode_pictures(pictures, FORM)


def test_tables_that_teach_nothing_are_refused(tmp_path):
    path = table(tmp_path / "a.parquet", ["a", "b"], label="labels")
    with pytest.raises(DataError, match=r"no column 'label' of labels[\s\S]*did you mean labels"):
        read_parts(path)
    with pytest.raises(DataError, match="no column 'picture' of pictures"):
        read_parts(path, image_column="picture", label_column="labels")
    with pytest.raises(DataError, match="only one class"):
        read_parts(table(tmp_path / "b.parquet", ["a", "a"]))
    for labels in ([0.5, 1.5], [None, "a"], [True, False]):
        with pytest.raises(DataError, match="whole numbers or all text"):
            read_parts(table(tmp_path / "c.parquet", labels))
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "x.png"}] * 2, "label": [0, 1]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="a row holds no picture"):
        read_parts(tmp_path / "d.parquet")
    pq.write_table(pa.table({"one": [b"", b""], "two": [b"", b""], "label": [0, 1]}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"more than one column[\s\S]*one, two"):
        read_parts(tmp_path / "e.parquet")
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="could not be read"):
        read_parts(tmp_path / "f.parquet")


def test_formats_that_no_picture_has_are_refused():
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        PictureFormat(size=(4, 8, 8))
    with pytest.raises(ConfigError, match="PIL knows"):
        PictureFormat(size=(3, 8, 8), interpolation="wavelet")
