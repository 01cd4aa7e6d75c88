"""timm's own functions read what madzoo writes on an image model."""

import json

import pytest
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from madzoo.checkpoint.preparation import check_pretrained_cfg, with_image_keys
from madzoo.errors import CheckpointError
from madzoo.registry import PretrainedCfg

CFG = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "interpolation": "bicubic", "crop_pct": 0.9, "hub_id": "o/r"}


def test_timm_resolves_the_input():
    model = nn.Identity()
    vars(model)["pretrained_cfg"] = with_image_keys(CFG, in_chans=3, img_size=28, num_classes=10)
    resolved = resolve_model_data_config(model)
    assert tuple(resolved["input_size"]) == (3, 28, 28)
    assert resolved["crop_pct"] == 0.9
    assert list(resolved["mean"]) == CFG["mean"]
    assert create_transform(**resolved, is_training=False) is not None


def test_other_channels_get_the_average():
    cfg = with_image_keys(CFG, in_chans=2, img_size=8, num_classes=1)
    assert cfg["mean"] == [0.5, 0.5]
    assert cfg["input_size"] == [2, 8, 8]
    assert with_image_keys({}, in_chans=2, img_size=8, num_classes=1)["std"] is None


def test_names_of_other_classes_are_dropped():
    cfg = {**CFG, "class_names": ["a", "b"]}
    assert with_image_keys(cfg, in_chans=3, img_size=8, num_classes=2)["class_names"] == ["a", "b"]
    assert with_image_keys(cfg, in_chans=3, img_size=8, num_classes=3)["class_names"] is None


def test_every_field_of_the_registry_is_known():
    values = json.loads(json.dumps(PretrainedCfg(mean=(0.5,), input_size=(1, 2, 2), class_names=("a",)).to_dict()))
    check_pretrained_cfg(values, path="p")
    for key in values:
        with pytest.raises(CheckpointError, match=key):
            check_pretrained_cfg({**values, key: {1, 2}}, path="p")


ILL_TYPED = [{"mean": []}, {"mean": ["x"]}, {"std": 1}, {"class_names": True}, {"class_names": [1]}, {"crop_pct": None}]
ILL_TYPED += [{"crop_pct": True}, {"sha256": 3}, {"input_size": [1.5, 2, 2]}, {"model_args": []}]


@pytest.mark.parametrize("values", ILL_TYPED)
def test_ill_typed_value_is_named(values):
    with pytest.raises(CheckpointError, match=f"some/file.*{next(iter(values))}"):
        check_pretrained_cfg(values, path="some/file")
