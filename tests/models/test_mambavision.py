"""MambaVision: published counts, names and layouts; its formulas; timm's protocol; other sizes."""

import dataclasses
import re

import pytest
import torch
from published_check import assert_published_count
from safetensors.torch import save_file
from symmetry_check import assert_symmetries_hold
from tiny_images import images
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.layers.symmetric_mixer import SymmetricMixer
from madzoo.layers.windows import WindowAttention
from madzoo.models.image.mambavision import MambaVision, MambaVisionConfig, remap_keys
from madzoo.registry import find_spec, list_specs

NAME = "mambavision_t_224"
PUBLISHED_COUNTS = {
    "mambavision_t_224": 31794248,
    "mambavision_t2_224": 35104008,
    "mambavision_s_224": 50140584,
    "mambavision_b_224": 97685288,
    "mambavision_l_224": 227961048,
    "mambavision_l2_224": 241554824,
    "mambavision_l2_512": 241554824,
    "mambavision_l3_256": 739570472,
    "mambavision_l3_512": 739570472,
}
SMALL = MambaVisionConfig(
    img_size=64, num_classes=5, depths=(1, 1, 3, 2), embed_dim=8, stem_dim=4, num_heads=(2, 4), window_size=(4, 2)
)
FORMS = {"plain": {}, "scaled": {"layer_scale": 0.5, "layer_scale_conv": 0.5}}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def small(form="plain", **changes):
    torch.manual_seed(0)
    model = MambaVision(dataclasses.replace(SMALL, **(FORMS[form] | changes))).eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand_like(buffer))
    return model


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = assert_published_count(name, PUBLISHED_COUNTS[name])
    assert spec.paper == "2407.08083"
    side = spec.config.img_size
    assert name.endswith(f"_{side}") and spec.config.window_size == (side // 16, side // 32)
    for tag, cfg in spec.weights.items():
        assert cfg.license == "cc-by-nc-sa-4.0" and cfg.revision is cfg.sha256 is None
        size = name.split("_")[1].upper() + ("" if side == 224 else f"-{side}")
        assert cfg.hub_id == f"nvidia/MambaVision-{size}-{'21K' if '21k' in tag else '1K'}"
        assert (cfg.input_size, cfg.interpolation) == ((3, side, side), "bicubic")
        assert cfg.crop_pct == {"t2_224": 0.98, "s_224": 0.93}.get(name[12:], 0.93 if side == 512 else 1.0)


def test_the_family_is_registered():
    assert set(list_specs("mambavision_*")) == set(PUBLISHED_COUNTS)
    assert find_spec("mambavision_b_224").default_tag == "nvidia_in1k"


def test_names_are_the_published_ones():
    with torch.device("meta"):
        names = list(MambaVision(dataclasses.replace(SMALL, layer_scale=1e-5)).state_dict())
    leaf = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
    mixer = r"(A_log|D|(in|x|out|dt)_proj\.(weight|bias)|conv1d_[xz]\.weight|(qkv|proj)\.(weight|bias))"
    known = re.compile(
        rf"patch_embed\.conv_down\.[0134]\.{leaf}"
        rf"|levels\.[01]\.blocks\.\d+\.(conv|norm)[12]\.{leaf}"
        rf"|levels\.[23]\.blocks\.\d+\.(gamma_[12]|norm[12]\.{leaf}|mlp\.fc[12]\.{leaf}|mixer\.{mixer})"
        r"|levels\.[012]\.downsample\.reduction\.0\.weight"
        rf"|(norm|head)\.{leaf}"
    )
    assert all(known.fullmatch(name) for name in names)


def test_scans_come_first_and_attention_second():
    with torch.device("meta"):
        model = MambaVision(dataclasses.replace(SMALL, depths=(1, 1, 5, 4)))
    kinds = [[type(block.mixer) for block in level.blocks] for level in model.levels[2:]]
    assert kinds == [[SymmetricMixer] * 3 + [WindowAttention] * 2, [SymmetricMixer] * 2 + [WindowAttention] * 2]


def test_a_convolutional_block_is_its_formula():
    block, x = small("scaled").double().levels[0].blocks[0], images(6, channels=8, dtype=torch.float64)

    def norm(y, bn):
        y = (y - bn.running_mean[:, None, None]) / (bn.running_var + 1e-5).sqrt()[:, None, None]
        return y * bn.weight[:, None, None] + bn.bias[:, None, None]

    y = F.gelu(norm(block.conv1(x), block.norm1), approximate="tanh")
    expected = x + 0.5 * norm(block.conv2(y), block.norm2)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_a_window_block_is_its_formula():
    block, x = small("scaled").double().levels[2].blocks[0], images(6, 32, channels=9, dtype=torch.float64)[:, 0]
    y = x + 0.5 * block.mixer(F.layer_norm(x, (32,)))
    expected = y + 0.5 * block.mlp.fc2(F.gelu(block.mlp.fc1(F.layer_norm(y, (32,)))))
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_the_stem_has_its_own_epsilon():
    model = small()
    norms = {name: m.eps for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {eps for name, eps in norms.items() if name.startswith("patch_embed")} == {1e-4}
    assert {eps for name, eps in norms.items() if not name.startswith("patch_embed")} == {1e-5}


def test_padding_takes_part():
    """A grid of five by seven answers as the zero-padded one does, cropped."""
    level, x = small().levels[2], images(5, 7, channels=32)
    torch.testing.assert_close(level.mix(x), level.mix(F.pad(x, (0, 1, 0, 3)))[..., :5, :7])


@pytest.mark.parametrize("wrap", ["hub", "release"])
def test_authors_files_load(wrap, tmp_path):
    model = small("scaled")
    state = model.state_dict()
    path = tmp_path / ("model.safetensors" if wrap == "hub" else "mambavision.pth.tar")
    if wrap == "hub":
        save_file({f"model.{key}": value for key, value in state.items()}, path)
    else:
        torch.save({"epoch": 1, "arch": "mamba_vision", "state_dict": state}, path)
    loaded = create_model(NAME, checkpoint_path=path, **dataclasses.asdict(model.config)).eval()
    assert torch.equal(loaded(images(64)), model(images(64)))
    assert remap_keys(state).keys() == state.keys()


def test_initial_values():
    model = small(num_classes=300, embed_dim=32, layer_scale=1e-5)
    block, attention = model.levels[2].blocks[0], model.levels[2].blocks[2].mixer
    linears = [model.get_classifier(), block.mixer.in_proj, block.mixer.dt_proj, block.mlp.fc1, attention.qkv]
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias is None or (linear.bias == 0).all()
    assert (block.gamma_1 == 1e-5).all() and (block.gamma_2 == 1e-5).all()


@EVERY_FORM
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 150), (3, 36), (1, 1)])
def test_any_size_at_call_time(form, height, width):
    model, x = small(form), images(height, width)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, -(-height // 32), -(-width // 32))
    assert model(x).shape == (2, 5)
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3)))


def test_an_image_that_does_not_fit_is_refused():
    for wrong in (images(32, channels=1), torch.randn(3, 32, 32), torch.randn(1, 3, 0, 5)):
        with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
            small()(wrong)


def test_samples_do_not_meet():
    model, x = small().double(), images(64, 90, dtype=torch.float64)
    alone = torch.func.vmap(lambda image: model(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(alone, model(x))
    torch.testing.assert_close(model(x[1:]), model(x)[1:])


def test_symmetries():
    model = small(num_classes=2).double()
    assert_symmetries_hold(model, images(64, dtype=torch.float64))
    for block in (model.levels[2].blocks[0], model.levels[2].blocks[2]):
        assert_symmetries_hold(block, torch.randn(2, 16, 32, dtype=torch.float64))


def test_values_that_make_no_model_are_told():
    for wrong in (
        {"global_pool": "max"},
        {"depths": (2, 2, 2)},
        {"depths": (2, 0, 2, 2)},
        {"num_classes": -1},
        {"embed_dim": 0},
        {"num_heads": (3, 4)},
        {"num_heads": (2, 2, 2, 2)},
        {"window_size": (0, 7)},
        {"mlp_ratio": 0.0},
        {"layer_scale": -1.0},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ConfigError, match="avg"):
        small().reset_classifier(3, global_pool="averaged")
