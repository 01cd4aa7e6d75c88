"""Classifying pictures: against a direct forward pass, and every kind of bad picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from madzoo.data.transforms import create_transform
from madzoo.errors import ConfigError, DataError, UnknownModelError
from madzoo.factory import create_model
from madzoo.workflows.classify import ImagePrediction, classify

NAMES = tuple("abcdefg")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = create_model("weft_micro_patch4_32", num_classes=7, embed_dim=8, depth=1)
    model.pretrained_cfg |= {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "class_names": NAMES}
    return model


def picture(seed=0, size=(40, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_equals_a_direct_forward_pass(model, tmp_path):
    images = [picture(0), picture(1)]
    paths = [tmp_path / "one.png", tmp_path / "two.webp"]
    images[0].save(paths[0])
    images[1].save(paths[1], lossless=True)
    found = classify(model, paths, top=3)
    with torch.inference_mode():
        logits = model.eval()(torch.stack([create_transform(model)(image) for image in images]))
    values, indices = logits.softmax(-1).topk(3)
    for row, prediction in enumerate(found):
        assert prediction.image == str(paths[row])
        assert prediction.classes == tuple(NAMES[i] for i in indices[row].tolist())
        assert prediction.probabilities == pytest.approx(values[row].tolist(), rel=1e-5)


def test_all_probabilities_sum_to_one(model):
    (found,) = classify(model, [picture()], top=99)
    assert len(found.classes) == 7
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-5)
    assert list(found.probabilities) == sorted(found.probabilities, reverse=True)


def test_the_mode_of_the_model_is_left_as_it_was(model):
    classify(model.train(), [picture()])
    assert model.training


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_every_mode(model, mode, tmp_path):
    path = tmp_path / "image.tiff"
    (Image.new("I;16", (32, 32)) if mode == "I;16" else picture().convert(mode)).save(path)
    assert len(classify(model, [path])[0].classes) == 5


def test_a_camera_turned_on_its_side(model, tmp_path):
    upright = picture(size=(32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    turned, plain = classify(model, [tmp_path / "turned.png", tmp_path / "upright.png"])
    assert turned.probabilities == plain.probabilities


def test_record_is_plain_json(model):
    (found,) = classify(model, [picture()], top=2)
    assert (
        ImagePrediction(**found.to_dict() | {"classes": found.classes, "probabilities": found.probabilities}) == found
    )
    assert found.to_dict()["image"] == "0"


def test_a_model_without_class_names_counts(model):
    model.pretrained_cfg["class_names"] = None
    assert all(name.startswith("class ") for name in classify(model, [picture()])[0].classes)


def bad_files(folder):
    picture().save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.png").write_bytes(whole[:60] + bytes(200) + whole[260:])
    (folder / "text.png").write_text("no picture at all")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize("name", ["truncated", "broken", "text", "empty", "folder", "missing"])
def test_bad_pictures_are_named(model, tmp_path, name):
    bad_files(tmp_path)
    with pytest.raises(DataError, match=f"{name}.png"):
        classify(model, [tmp_path / "whole.png", tmp_path / f"{name}.png"])


def test_bad_arguments(model):
    with pytest.raises(DataError):
        classify(model, [])
    with pytest.raises(ConfigError):
        classify(model, [picture()], top=0)
    with pytest.raises(ConfigError, match="does not classify"):
        classify(create_model("patch_s4d_nano_512_96"), [picture()])
    with pytest.raises(UnknownModelError):
        classify("no_such_model", [picture()])
