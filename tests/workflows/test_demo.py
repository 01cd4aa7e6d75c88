"""The demo: complete on small models made here, honest about what a folder does not state, true to the bundled ones."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from madzoo.checkpoint.folder import bundled_root, write_folder
from madzoo.errors import CheckpointError, DataError
from madzoo.factory import create_model
from madzoo.workflows.demo import ASSETS, LABELS, SERIES, WEEKS, demo, summarize_card

LEVELS = [i / 10 for i in range(1, 10)]
PIXELS = {"input_size": [1, 28, 28], "mean": [0.286], "std": [0.353]}


def write(folder, arch, args, cfg=None):
    torch.manual_seed(0)
    state = create_model(arch, **args).state_dict()
    return write_folder(folder, architecture=arch, model_args=args, pretrained_cfg=cfg or {}, state=state)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "root" / "picture", "weft_micro_patch4_28", {"embed_dim": 8, "depth": 1}, PIXELS)
    write(tmp_path / "root" / "series", "patch_s4d_nano_512_96", {"d_model": 4, "depth": 1, "quantile_levels": LEVELS})
    return tmp_path / "root"


@pytest.fixture
def found(root, tmp_path):
    names = {"classifier": f"local-dir:{root / 'picture'}", "forecaster": f"local-dir:{root / 'series'}"}
    return demo(tmp_path / "new" / "folder", root=root, **names)


def test_five_pictures(found):
    assert found.truths == ("Ankle boot", "Pullover", "Trouser", "Trouser", "Shirt")
    assert [one.image for one in found.predictions] == [f"fashion_mnist_test_{i}.png" for i in range(5)]
    assert all(len(one.classes) == 3 for one in found.predictions)


def test_one_forecast(found):
    assert len(found.forecast) == WEEKS
    last = pd.read_csv(SERIES)["timestamp"].iloc[-1]
    assert found.forecast["timestamp"].iloc[0] == pd.Timestamp(last) + pd.Timedelta(weeks=1)
    written = pd.read_csv(found.csv, parse_dates=["timestamp"])
    assert written["predictions"].tolist() == pytest.approx(found.forecast["predictions"].tolist())
    with Image.open(found.png) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_a_folder_without_reports_states_nothing(found):
    assert [card.model for card in found.cards] == ["weft_micro_patch4_28", "patch_s4d_nano_512_96"]
    assert all(card.value is card.num_params is card.drop_4_bits is None for card in found.cards)


def test_a_damaged_folder_is_refused(root):
    path = root / "series" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        summarize_card(root / "series")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        demo(tmp_path / "file")


def test_assets_are_what_their_licence_note_says():
    series = pd.read_csv(SERIES, parse_dates=["timestamp"])
    assert (len(series), int(series["co2"].isna().sum())) == (2284, 59)
    assert (series["timestamp"].diff().dropna() == pd.Timedelta(weeks=1)).all()
    for name in json.loads(LABELS.read_text()):
        with Image.open(ASSETS / name) as picture:
            assert (picture.size, picture.mode) == ((28, 28), "L")
    assert "public domain" in (ASSETS / "LICENSES.md").read_text().lower()


def test_the_bundled_models(tmp_path):
    found = demo(tmp_path)
    bundled = {path.parent.name for path in bundled_root().glob("*/config.json")}
    assert {card.model for card in found.cards} == bundled
    for card in found.cards:
        assert None not in (card.value, card.num_params, card.local_dimension)
        is_packed = card.model.endswith("-int4")  # rounded already: what would rounding cost?
        assert (card.drop_8_bits is None, card.drop_4_bits is None) == (is_packed, is_packed)
    right = sum(one.classes[0] == truth for one, truth in zip(found.predictions, found.truths, strict=True))
    assert right >= 4
    assert found.forecast["0.1"].between(360, 390).all()
    assert found.forecast["0.9"].between(360, 390).all()
