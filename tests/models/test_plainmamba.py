"""PlainMamba against published outputs, counts and gradients; authors' layouts; timm's protocol; other sizes."""

import dataclasses

import pytest
import torch
from parity import load_case, load_published
from published_check import assert_published_features, assert_published_gradients
from symmetry_check import assert_symmetries_hold
from tiny_images import images
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.image.plainmamba import PlainMamba, PlainMambaConfig, adapt_weights, remap_keys
from madzoo.registry import find_spec, list_specs

CASE, REFERENCE = load_case("plainmamba_l1_224")
# with the head, and without
PUBLISHED_COUNTS = {
    "plainmamba_l1_224": (7551656, 7358656),
    "plainmamba_l2_224": (26145832, 25760832),
    "plainmamba_l3_224": (50956456, 50507456),
}
NAME = "plainmamba_l1_224"
SMALL = PlainMambaConfig(img_size=32, patch_size=8, num_classes=5, depth=3, embed_dim=16, d_state=4, d_conv=3)
FORMS = {
    "l1": {},
    "l2": {"stem_convs": 2, "dwconv_blocks": ()},
    "other": {"stem_convs": 0, "norm_layer": "rmsnorm", "bias": False, "conv_bias": False, "init_layer_scale": 0.5},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def small(form="l1", **changes):
    torch.manual_seed(0)
    return PlainMamba(dataclasses.replace(SMALL, **(FORMS[form] | changes))).eval()


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def published(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("authors")
    return load_published(NAME, CASE, request.param, folder, key="state_dict")


@pytest.mark.parametrize("tag", ["a", "odd"])
def test_published_outputs_and_taps(published, tag):
    def module_of(name):
        return name.removeprefix("backbone.")

    def laid_out(name, tap):
        tap = tap.permute(0, 2, 3, 1) if name.endswith("projection") else tap
        return tap.flatten(1, 2)  # the case was run on sequences

    assert_published_features(published, CASE, REFERENCE, tag, module_of=module_of, laid_out=laid_out)


@pytest.mark.parametrize("published", [torch.float64], indirect=True, ids=str)
def test_published_gradients(published):
    assert_published_gradients(published, CASE, REFERENCE, remap_keys=remap_keys)


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = find_spec(f"{name}.chenhongyiyang_in1k")
    with torch.device("meta"):
        models = [spec.build(dataclasses.replace(spec.config, num_classes=classes)) for classes in (1000, 0)]
    assert tuple(sum(p.numel() for p in model.parameters()) for model in models) == PUBLISHED_COUNTS[name]
    assert all(p.is_meta for p in models[0].parameters())
    cfg = spec.pretrained_cfg
    assert (spec.paper, spec.default_tag, cfg.license) == ("2403.17695", "chenhongyiyang_in1k", "apache-2.0")
    assert (cfg.hub_id, cfg.filename) == ("ChenhongyiYang/PlainMamba", f"{name.split('_')[1]}.pth")
    assert cfg.revision is cfg.sha256 is None
    assert (cfg.input_size, cfg.crop_pct, cfg.interpolation) == ((3, 224, 224), 0.875, "bicubic")


def test_the_family_is_registered():
    assert set(list_specs("plainmamba_*")) == set(PUBLISHED_COUNTS)


def test_parameters_stand_in_the_published_order():
    with torch.device("meta"):
        names = list(PlainMamba(PlainMambaConfig(depth=2)).state_dict())
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    mixer = ["A_log", "D", "direction_Bs", "in_proj.weight", "in_proj.bias", "conv2d.weight", "conv2d.bias"]
    mixer += ["x_proj.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight", "out_proj.bias"]
    stem = [f"{part}.{leaf}" for part in ("stem", "convs") for leaf in ("0.weight", *(f"1.{leaf}" for leaf in norm))]
    dwconv = ["dw.0.weight", *(f"dw.1.{leaf}" for leaf in norm)]
    layers = [
        f"layers.{i}.{leaf}"
        for i in range(2)
        for leaf in ["norm.weight", "norm.bias", *dwconv * (i == 0), *(f"mamba.{leaf}" for leaf in mixer)]
    ]
    stem += ["projection.weight", "projection.bias"]
    ends = ["ln1.weight", "ln1.bias", "head.weight", "head.bias"]
    assert names == ["pos_embed", *(f"patch_embed.{leaf}" for leaf in stem), *layers, *ends]


def authors_state(model):
    state = {f"backbone.{key}": value for key, value in model.state_dict().items() if not key.startswith("head.")}
    state |= {f"head.fc.{leaf}": getattr(model.head, leaf).detach() for leaf in ("weight", "bias")}
    averaged = {f"ema_{key.replace('.', '_')}": value + 1 for key, value in state.items() if "running" not in key}
    return state | averaged


@EVERY_FORM
def test_the_file_of_the_authors_loads(form, tmp_path):
    model, path = small(form), tmp_path / "l1.pth"
    stored = authors_state(model)
    assert remap_keys(stored).keys() == model.state_dict().keys()
    torch.save({"meta": {"epoch": 300}, "state_dict": stored, "optimizer": {}}, path)
    loaded = create_model(NAME, checkpoint_path=path, **dataclasses.asdict(model.config)).eval()
    assert torch.equal(loaded(images(32)), model(images(32)))


def test_initial_values_are_the_published_ones():
    model = small(num_classes=300, embed_dim=64)
    mixer = model.layers[1].mamba
    for linear in (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias is None or (linear.bias == 0).all()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (model.head.bias == 0).all()
    model.reset_classifier(300)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (model.layers[0].norm.eps, model.ln1.eps) == (1e-5, 1e-6)


@EVERY_FORM
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 70), (8, 36), (3, 5)])
def test_any_size_at_call_time(form, height, width):
    model = small(form)
    tokens = model.forward_features(images(height, width))
    assert tokens.shape == (2, -(-height // 8), -(-width // 8), 16)
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens.mean((1, 2)))
    assert model(images(height, width)).shape == (2, 5)


def test_patches_beyond_the_edge_are_filled_up_behind_the_stem():
    embed = small().patch_embed
    x = embed.convs(embed.stem(images(32, 20)))
    assert x.shape == (2, 64, 16, 10)
    expected = embed.projection(torch.cat([x, torch.zeros(2, 64, 16, 2)], -1))
    torch.testing.assert_close(embed(images(32, 20)), expected)


def test_other_sizes_at_call_time_equal_a_rebuilt_model():
    model, x = small(), images(48)
    larger = dataclasses.replace(SMALL, img_size=48)
    state = adapt_weights(model.state_dict(), SMALL, larger)
    rebuilt = PlainMamba(larger).eval()
    rebuilt.load_state_dict(state, strict=True)
    torch.testing.assert_close(model(x), rebuilt(x))
    grid = model.pos_embed.detach().reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(state["pos_embed"], expected)


def test_an_image_that_does_not_fit_is_refused():
    for wrong in (images(32, channels=1), torch.randn(3, 32, 32), torch.randn(1, 3, 0, 32)):
        with pytest.raises(ShapeError, match="3, H, W"):
            small()(wrong)


@pytest.mark.parametrize("form", ["l1", pytest.param("l2", marks=pytest.mark.slow), "other"])
def test_symmetries(form):
    model = small(form, embed_dim=4, d_state=2, depth=2, num_classes=2, in_chans=1, patch_size=4).double()
    assert_symmetries_hold(model, images(32, channels=1, dtype=torch.float64))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    for layer in model.layers:
        assert_symmetries_hold(layer, x)


def test_values_that_make_no_model_are_told():
    for wrong in (
        {"global_pool": "max"},
        {"norm_layer": "batchnorm"},
        {"img_size": 1},
        {"patch_size": 7},
        {"depth": 0},
        {"depth": 5000},
        {"num_classes": -1},
        {"stem_convs": -1},
        {"dwconv_blocks": (3,)},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ConfigError, match="avg"):
        small().reset_classifier(3, global_pool="averaged")
