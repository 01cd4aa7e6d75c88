"""Pictures to tensors by the model's own configuration: sizes, colours, normalisation, augmentation, refusals."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from madzoo.data.transforms import create_transform
from madzoo.errors import ConfigError, DataError
from madzoo.factory import create_model

NAME = "vim_tiny_patch16_224"
SMALL = {"depth": 1, "embed_dim": 16}


def model(name=NAME, **options):
    return create_model(name, **({**SMALL, **options} if name == NAME else options))


def picture(mode="RGB", size=(300, 200)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def test_evaluation_resizes_crops_and_normalises():
    image = picture()
    found = create_transform(model())(image)
    expected = F.center_crop(F.resize(image, 256, InterpolationMode.BICUBIC), [224, 224])  # 224 / 0.875
    expected = F.normalize(F.to_tensor(expected), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("side", [512, 256])
def test_weights_that_saw_squashed_pictures_see_squashed_pictures(side):
    # As published: the weights for 512 pixels squash, to a square of 512 / 0.93, before the middle is cut out.
    small = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_classes": 2}
    found = create_transform(model(f"mambavision_l3_{side}", **small))(picture())
    resized = F.resize(picture(), [550, 550] if side == 512 else 256, InterpolationMode.BICUBIC)
    expected = F.to_tensor(F.center_crop(resized, [side, side]))
    torch.testing.assert_close(found, F.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("in_chans", [1, 2, 3, 4])
def test_pictures_of_any_mode_for_models_of_any_channels(mode, in_chans):
    image = picture("L").convert("I").convert("I;16") if mode == "I;16" else picture(mode)
    for is_training in (False, True):
        found = create_transform(model(in_chans=in_chans), is_training=is_training)(image)
        assert found.shape == (in_chans, 224, 224) and found.isfinite().all()


def test_a_grey_model_sees_luminance():
    grey = create_transform(model("weft_micro_patch4_28"))
    image = picture("RGB", (28, 28))
    expected = (torch.from_numpy(np.array(image.convert("L")) / 255.0) - 0.2860) / 0.3530
    torch.testing.assert_close(grey(image)[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_training_is_random_and_keeps_the_normalisation():
    prepare, image = create_transform(model(), is_training=True), picture(size=(600, 500))
    torch.manual_seed(0)
    first, second = prepare(image), prepare(image)
    assert first.shape == (3, 224, 224) and not torch.equal(first, second)
    flat = Image.new("RGB", (300, 300), (255, 255, 255))
    plain = create_transform(model(), is_training=True, color_jitter=None)(flat)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(plain, expected[:, None, None].expand(3, 224, 224))


def test_options_reach_timm():
    text = repr(create_transform(model(), is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25))
    assert "RandAugment" in text and "RandomErasing" in text
    with pytest.raises(ConfigError, match="timm refuses"):
        create_transform(model(), is_training=True, no_such_option=1)


@pytest.mark.parametrize(("img_size", "shape"), [(96, (96, 96)), ((64, 128), (64, 128)), (None, (224, 224))])
def test_other_sizes(img_size, shape):
    for is_training in (False, True):
        found = create_transform(model(), is_training=is_training, img_size=img_size)(picture())
        assert found.shape == (3, *shape)


def test_models_of_timm_and_backbones_have_one_too():
    for other in (create_model("timm/test_vit"), model(features_only=True)):
        prepare = create_transform(other)
        assert prepare(picture()).shape == tuple(other.pretrained_cfg["input_size"])


def test_it_can_be_sent_to_other_processes():
    prepare = create_transform(model())
    torch.testing.assert_close(pickle.loads(pickle.dumps(prepare))(picture()), prepare(picture()))


def test_what_cannot_be_prepared_is_told():
    with pytest.raises(ConfigError, match=r"lacks mean, std[^\n]*\n.*vim_nano"):
        create_transform(create_model("vim_nano_patch4_32"))
    with pytest.raises(ConfigError, match="lacks input_size"):
        create_transform(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="no picture has 6 channels"):
        create_transform(model(in_chans=6))
    with pytest.raises(DataError, match="Tensor"):
        create_transform(model())(torch.zeros(3, 224, 224))
