"""VMamba against published outputs, counts and gradients; authors' layouts; timm's protocol; other sizes."""

import dataclasses

import pytest
import torch
from parity import load_case, load_published
from published_check import assert_published_count, assert_published_features, assert_published_gradients
from symmetry_check import assert_symmetries_hold
from tiny_images import images

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.image.vmamba import VMamba, VMambaConfig, remap_keys
from madzoo.registry import find_spec, list_specs

CASE, REFERENCE = load_case("vmamba_tiny_s1l8")
NAME = "vmamba_tiny_s1l8_224"
PUBLISHED_COUNTS = {
    "vmamba_v0_tiny_224": 22893448,
    "vmamba_v0_small_224": 44417416,
    "vmamba_v0_base_224": 76254056,
    "vmamba_tiny_s2l5_224": 30705832,
    "vmamba_small_s2l15_224": 50147752,
    "vmamba_base_s2l15_224": 88557800,
    "vmamba_tiny_s1l8_224": 30249064,
    "vmamba_small_s1l20_224": 49012840,
    "vmamba_base_s1l20_224": 86614504,
    "vmamba_tiny_m2_224": 25340296,
    "vmamba_small_m2_224": 39079816,
    "vmamba_base_m2_224": 67527528,
}
SMALL = VMambaConfig(img_size=32, num_classes=5, depths=(1, 1, 2, 1), embed_dim=8)
FORMS = {
    "v0": {"forward_type": "v0", "d_state": 4, "expand": 2.0, "conv_bias": True, "mlp_ratio": 0.0}
    | {"patch_embed": "v1", "downsample": "v1"},
    "current": {},
    "plain": {"forward_type": "v05", "downsample": "v2"},
    "m2": {"forward_type": "m0_noz", "d_state": 8, "act_layer": "gelu", "initialize": "v2"},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def small(form="current", **changes):
    torch.manual_seed(0)
    return VMamba(dataclasses.replace(SMALL, **(FORMS[form] | changes))).eval()


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def published(request, tmp_path_factory):
    return load_published(NAME, CASE, request.param, tmp_path_factory.mktemp("authors"))


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = assert_published_count(name, PUBLISHED_COUNTS[name])
    assert spec.paper == "2401.10166"
    if "m2" in name:
        assert not spec.weights
        return
    cfg = find_spec(f"{name}.mzeromiko_in1k").pretrained_cfg
    assert cfg.url.startswith("https://github.com/MzeroMiko/VMamba/releases/download/%23v")
    assert cfg.url.endswith(cfg.filename) and cfg.filename.endswith(".pth")
    assert cfg.license == "mit" and cfg.hub_id is cfg.revision is cfg.sha256 is None
    assert (cfg.input_size, cfg.crop_pct, cfg.interpolation) == ((3, 224, 224), 0.875, "bicubic")


def test_the_family_is_registered():
    assert set(list_specs("vmamba_*")) == set(PUBLISHED_COUNTS)


def test_parameters_stand_in_the_published_order():
    with torch.device("meta"):
        state = VMamba(VMambaConfig()).state_dict()
    expected = [(entry["key"], tuple(entry["shape"])) for entry in CASE["state_dict"]]
    assert [(key, tuple(value.shape)) for key, value in state.items()] == expected


@pytest.mark.parametrize("tag", ["a", "odd"])
def test_published_outputs_and_taps(published, tag):
    def laid_out(_name, tap):
        return tap.permute(0, 3, 1, 2)  # the case was run channel-first

    assert_published_features(published, CASE, REFERENCE, tag, laid_out=laid_out)


@pytest.mark.parametrize("published", [torch.float64], indirect=True, ids=str)
def test_published_gradients(published):
    assert_published_gradients(published, CASE, REFERENCE)


def old_layout(state):
    """Writes a state dict as the first release named it, its linear layers as 1 x 1 convolutions."""
    names = {".norm.": ".ln_1.", ".op.": ".self_attention."}
    old = {}
    for key, value in state.items():
        for new, first in names.items():
            key = key.replace(new, first) if ".blocks." in key and ".op.out_norm" not in key else key
        if ".op.out_norm" in key:
            key = key.replace(".op.", ".self_attention.")
        key = key.removeprefix("classifier.")
        key = key.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
        is_linear = value.dim() == 2 and ("_proj.weight" in key or ".fc" in key or "reduction" in key)
        old[key] = value[:, :, None, None] if is_linear else value
    return old


@EVERY_FORM
def test_the_layouts_of_older_files_load(form, tmp_path):
    model, path = small(form), tmp_path / "old.pth"
    old = old_layout(model.state_dict())
    assert "norm.weight" in old and any(".ln_1." in key for key in old)
    assert remap_keys(old).keys() == model.state_dict().keys()
    torch.save({"model": {f"module.{key}": value for key, value in old.items()}}, path)
    loaded = create_model(NAME, checkpoint_path=path, **dataclasses.asdict(model.config)).eval()
    assert torch.equal(loaded(images(32)), model(images(32)))


def test_initial_values():
    model = small(num_classes=300, embed_dim=16)
    block = model.layers[2].blocks[0]
    for linear in (model.get_classifier(), block.op.in_proj, block.op.out_proj, block.mlp.fc1, block.mlp.fc2):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias is None or (linear.bias == 0).all()
    steps = torch.nn.functional.softplus(block.op.dt_projs_bias)  # not overwritten: no linear layers hold them
    assert 0.0009 < steps.min() < steps.max() < 0.11


@EVERY_FORM
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 70), (4, 36)])
def test_any_size_at_call_time(form, height, width):
    if form == "plain":
        height = max(height, 32)  # convolutions without overlap need two rows to make one of
    model, x = small(form), images(height, width)
    features = model.forward_features(x)
    assert features.shape[-1] == model.num_features == 64
    assert model(x).shape == (2, 5)
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((1, 2)))


def test_an_image_that_does_not_fit_is_refused():
    for wrong in (images(32, channels=1), images(3, 32), torch.randn(3, 32, 32)):
        with pytest.raises(ShapeError, match="at least 4"):
            small()(wrong)


def test_samples_do_not_meet():
    model, x = small().double(), images(32, dtype=torch.float64)
    alone = torch.func.vmap(lambda image: model(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(alone, model(x))
    torch.testing.assert_close(model(x[1:]), model(x)[1:])


@pytest.mark.parametrize("form", ["v0", "current"])
def test_symmetries(form):
    # Large enough that every tap of every convolution meets a token.
    model = small(form, embed_dim=4, num_classes=2, depths=(1, 1, 1, 1), mlp_ratio=float(form != "v0")).double()
    assert_symmetries_hold(model, images(64, dtype=torch.float64))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert_symmetries_hold(model.layers[0].blocks[0], x)


def test_values_that_make_no_model_are_told():
    for wrong in (
        {"global_pool": "max"},
        {"act_layer": "tanh"},
        {"patch_embed": "v3"},
        {"downsample": "none"},
        {"depths": (2, 2, 2)},
        {"depths": (2, 0, 2, 2)},
        {"num_classes": -1},
        {"patch_size": 3},
        {"embed_dim": 0},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ConfigError, match="avg"):
        small().reset_classifier(3, global_pool="averaged")
