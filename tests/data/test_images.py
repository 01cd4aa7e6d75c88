"""Image batches: pure functions of (seed, step), prepared as the transforms prepare a picture."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from madzoo.data.images import Augmentation, ImageArrays, ImageSteps, augment, blend, decode_images, image_batches
from madzoo.data.transforms import create_transform
from madzoo.errors import ConfigError, DataError

PIXELS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def some_images(count=20, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageArrays(images=images, labels=torch.arange(count) % 5, num_classes=5)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_decoding_gives_the_pixels_back():
    arrays = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    data = decode_images([png(a) for a in arrays], [0, 1, 2], num_classes=3, channels=3)
    assert torch.equal(data.images, torch.from_numpy(arrays).permute(0, 3, 1, 2))
    grey = decode_images([png(a[..., 0]) for a in arrays], [0, 1, 2], num_classes=3, channels=1)
    assert torch.equal(grey.images[:, 0], torch.from_numpy(arrays[..., 0]))


def test_decoding_names_the_bad_row():
    good = png(np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="row 1"):
        decode_images([good, b"no image"], [0, 0], num_classes=1, channels=1)
    with pytest.raises(DataError, match="one size"):
        decode_images([good, png(np.zeros((4, 5), dtype=np.uint8))], [0, 0], num_classes=1, channels=1)


def test_split_is_a_partition_that_the_seed_fixes():
    data = some_images(30)
    kept, drawn = data.split(10, seed=0)
    rows = {tuple(image.flatten().tolist()) for image in torch.cat([kept.images, drawn.images])}
    assert (len(kept), len(drawn), len(rows)) == (20, 10, 30)
    assert torch.equal(drawn.images, data.split(10, seed=0)[1].images)
    assert not torch.equal(drawn.images, data.split(10, seed=1)[1].images)
    with pytest.raises(DataError, match="30 rows"):
        data.split(30, seed=0)


def test_fingerprint_sees_pixels_and_labels():
    data, other = some_images(), some_images()
    assert data.fingerprint() == other.fingerprint()
    other.images[3, 0, 2, 2] ^= 1
    assert data.fingerprint() != other.fingerprint()


def test_each_epoch_shows_each_image_once():
    data = some_images(20)
    steps = ImageSteps(data, Augmentation(), **PIXELS, batch_size=5, seed=3)
    assert steps.steps_per_epoch == 4
    plain = torch.cat([inputs for inputs, _ in image_batches(data, **PIXELS, batch_size=20)])
    for epoch in (0, 1):
        shown = torch.cat([steps[4 * epoch + i][0] for i in range(4)])
        places = [int((plain == image).flatten(1).all(1).nonzero()) for image in shown]
        assert sorted(places) == list(range(20))


def test_a_step_is_the_same_whenever_it_is_asked():
    make = {"batch_size": 6, "seed": 1}
    augmentation = Augmentation(crop_padding=2, flip=True, mixup=0.5, cutmix=1.0)
    one, two = (ImageSteps(some_images(), augmentation, **PIXELS, **make) for _ in range(2))
    later = [two[step] for step in (7, 2, 4)]
    for (inputs, targets), step in zip(later, (7, 2, 4), strict=True):
        assert torch.equal(one[step][0], inputs) and torch.equal(one[step][1], targets)


def test_processes_share_a_batch_without_overlap():
    data = some_images(16)
    whole = ImageSteps(data, Augmentation(), **PIXELS, batch_size=8, seed=0)[1][1]
    parts = [ImageSteps(data, Augmentation(), **PIXELS, batch_size=8, seed=0, rank=r, world=2)[1][1] for r in (0, 1)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(), whole)


def test_crops_are_windows_of_the_padded_image():
    images = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4).repeat(60, 1, 1, 1)
    padded = torch.nn.functional.pad(images[0, 0], (1, 1, 1, 1))
    windows = [padded[y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    seen = {
        next(i for i, window in enumerate(windows) if torch.equal(window, crop[0]))
        for crop in augment(images, Augmentation(crop_padding=1), np.random.default_rng(0))
    }
    assert seen == set(range(9))


def test_flips_mirror_about_half():
    images = some_images(400).images
    flipped = augment(images, Augmentation(flip=True), np.random.default_rng(0))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_blended_targets_weigh_what_was_blended(kind):
    inputs = torch.stack([torch.zeros(1, 10, 10), torch.ones(1, 10, 10)])
    labels = torch.tensor([0, 1])
    for seed in range(10):
        mixed, targets = blend(inputs, labels, 2, Augmentation(**{kind: 1.0}), np.random.default_rng(seed))
        torch.testing.assert_close(targets.sum(1), torch.ones(2))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets[:, 1])


class Named(torch.nn.Module):
    def __init__(self, **cfg):
        super().__init__()
        self.pretrained_cfg = cfg


def test_transform_equals_the_training_preparation():
    data = some_images(1, size=32)
    picture = Image.fromarray(data.images[0].permute(1, 2, 0).numpy())
    prepare = create_transform(Named(input_size=(3, 32, 32), **PIXELS, interpolation="bicubic", crop_pct=1.0))
    torch.testing.assert_close(prepare(picture), next(image_batches(data, **PIXELS, batch_size=1))[0][0])


def test_transform_brings_any_picture_to_size_and_channels():
    grey = create_transform(Named(input_size=(1, 28, 28), mean=(0.3,), std=(0.3,)))
    assert grey(Image.new("RGBA", (50, 40))).shape == (1, 28, 28)
    training = create_transform(Named(input_size=(3, 24, 24), **PIXELS), is_training=True)
    assert training(Image.new("L", (50, 40))).shape == (3, 24, 24)


def test_transform_says_what_is_missing():
    with pytest.raises(ConfigError, match="lacks input_size, mean, std"):
        create_transform(torch.nn.Identity())
    with pytest.raises(ConfigError, match="no picture has 5 channels"):
        create_transform(Named(input_size=(5, 8, 8), mean=(0.0,) * 5, std=(1.0,) * 5))
