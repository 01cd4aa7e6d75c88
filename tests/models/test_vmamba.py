"""VMamba against published outputs, counts and gradients; authors' layouts; timm's protocol; other sizes."""

import dataclasses
import itertools

import pytest
import torch
from parity import LIMITS, filled_state, load_case, relative_error, rule_input, weighted_sum
from symmetry_check import assert_symmetries_hold

from madzoo.errors import CheckpointError, ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.image.vmamba import VMamba, VMambaConfig, adapt_weights, remap_keys
from madzoo.ops.kernels.library import kernel_library
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


def options_of(model):
    return {field.name: getattr(model.config, field.name) for field in dataclasses.fields(model.config)}


def images(height, width=None, *, channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, height, width or height, generator=generator, dtype=dtype)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def published(request, tmp_path_factory):
    """Loads the published weights through the door that a user takes, in one dtype."""
    before, path = torch.get_default_dtype(), tmp_path_factory.mktemp("authors") / "vssm1_tiny.pth"
    torch.save({"model": filled_state(CASE, request.param)}, path)
    torch.set_default_dtype(request.param)
    try:
        model = create_model(NAME, checkpoint_path=path).eval()
    finally:
        torch.set_default_dtype(before)
        path.unlink()
    return model


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = find_spec(name)
    with torch.device("meta"):
        model = spec.build(spec.config)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED_COUNTS[name]
    assert all(p.is_meta for p in model.parameters())
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
    dtype, described, taps = next(published.parameters()).dtype, CASE["taps"][tag], {}
    hooks = [
        published.get_submodule(name).register_forward_hook(lambda _m, _args, y, name=name: taps.update({name: y}))
        for name in described
    ]
    x = CASE["inputs"][tag]
    with torch.no_grad():
        features = published.forward_features(rule_input(x["seed"], x["shape"], dtype))
        logits, pooled = published.forward_head(features), published.forward_head(features, pre_logits=True)
    for hook in hooks:
        hook.remove()
    assert logits.dtype == dtype
    assert relative_error(logits, REFERENCE[f"{tag}.logits.float64"]) < LIMITS[dtype]
    assert relative_error(pooled, REFERENCE[f"{tag}.features.float64"]) < LIMITS[dtype]
    for name, summary in described.items():
        tap = taps[name].permute(0, 3, 1, 2)  # the case was run channel-first
        assert list(tap.shape) == summary["shape"]
        values = tap.flatten()[:: summary["flat_idx_stride"]][:64]
        assert relative_error(values, REFERENCE[f"{tag}.tap.{name}"]) < LIMITS[dtype]


@pytest.mark.parametrize("published", [torch.float64], indirect=True, ids=str)
def test_published_gradients(published):
    grad = CASE["grad"]
    x = rule_input(grad["input"]["seed"], grad["input"]["shape"], torch.float64).requires_grad_()
    loss = weighted_sum(published, x, grad["input"]["seed"])
    loss.backward()
    assert loss.item() == pytest.approx(grad["loss_value"], rel=1e-9)
    assert x.grad.norm().item() == pytest.approx(grad["input_grad_norm"], rel=1e-9)
    assert relative_error(x.grad.flatten()[:: x.numel() // 256][:256], REFERENCE["grad.input.slice"]) < 1e-9
    norms = {name: p.grad.norm().item() for name, p in published.named_parameters()}
    assert norms == pytest.approx(grad["param_grad_l2"], rel=1e-9)


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
    loaded = create_model(NAME, checkpoint_path=path, **options_of(model)).eval()
    assert torch.equal(loaded(images(32)), model(images(32)))


def test_a_file_with_other_keys_is_refused(tmp_path):
    model, path = small(), tmp_path / "other.pth"
    torch.save(model.state_dict() | {"pos_embed": torch.zeros(1, 8, 8, 8)}, path)
    with pytest.raises(CheckpointError, match="pos_embed"):
        create_model(NAME, checkpoint_path=path, **options_of(model))


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


@pytest.mark.parametrize(("in_chans", "copied"), [(4, [0, 1, 2, 0]), (2, [0, 1])])
def test_stem_repeats_for_other_channels(in_chans, copied):
    model, target = small(), dataclasses.replace(SMALL, in_chans=in_chans)
    adapted = VMamba(target).eval()
    adapted.load_state_dict(adapt_weights(model.state_dict(), SMALL, target), strict=True)
    expected = model.patch_embed[0].weight[:, copied] * (3 / in_chans)
    torch.testing.assert_close(adapted.patch_embed[0].weight, expected)


def test_stem_sums_for_grey_images():
    model, target = small(), dataclasses.replace(SMALL, in_chans=1)
    adapted, inner = VMamba(target).eval(), torch.randn(2, 1, 32, 32)
    adapted.load_state_dict(adapt_weights(model.state_dict(), SMALL, target), strict=True)
    torch.testing.assert_close(adapted(inner), model(inner.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_head_for_other_classes_is_left_out(num_classes):
    state = adapt_weights(small().state_dict(), SMALL, dataclasses.replace(SMALL, num_classes=num_classes))
    assert set(small().state_dict()) - set(state) == {"classifier.head.weight", "classifier.head.bias"}


@EVERY_FORM
def test_the_protocol_of_timm(form):
    model, x = small(form), images(32)
    assert model.task == "image-classification" and model.pretrained_cfg is None
    assert model.get_classifier() is model.classifier.head
    torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x)))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.config.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    model.reset_classifier(3, "")
    assert model(x).shape == (2, 1, 1, 3)
    assert model.config.global_pool == ""
    assert small(form, num_classes=0)(x).shape == (2, 64)


@EVERY_FORM
def test_every_parameter_learns(form):
    model = small(form).train()
    model(images(64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_weight_decay_and_layer_groups():
    model = small()
    assert model.no_weight_decay() == set()
    assert set(model.group_matcher()) == set(model.group_matcher(coarse=True)) == {"stem", "blocks"}


def test_intermediates():
    model, x = small(), images(64, 96)
    final, features = model.forward_intermediates(x)
    assert [tuple(f.shape) for f in features] == [(2, 8, 16, 24), (2, 16, 8, 12), (2, 32, 4, 6), (2, 64, 2, 3)]
    assert [(info["num_chs"], info["reduction"]) for info in model.feature_info] == [
        (8, 4),
        (16, 8),
        (32, 16),
        (64, 32),
    ]
    modules = dict(model.named_modules())
    assert all(info["module"] in modules for info in model.feature_info)
    torch.testing.assert_close(final, model.forward_features(x))
    (last,) = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NHWC", intermediates_only=True)
    torch.testing.assert_close(last, final)
    early = model.forward_intermediates(x, indices=[0, -3], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, features[:2])
    grid, _ = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert grid.shape == (2, 4, 6, 32)
    for wrong in ({"indices": [4]}, {"indices": 5}, {"indices": 0}, {"output_fmt": "NCL"}):
        with pytest.raises(ConfigError):
            model.forward_intermediates(x, **wrong)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        model = small().train()
        model.set_grad_checkpointing(enable)
        model(images(32)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_drop_rates_act_in_training_only():
    model, x = small(drop_rate=0.3, drop_path_rate=0.4), images(32)
    assert torch.equal(model(x), model(x))
    blocks = list(itertools.chain.from_iterable(layer.blocks for layer in model.layers))
    assert [block.drop_path.p for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.skipif(kernel_library() is None, reason="without compiled kernels a program writes every position out")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_exported_program_serves_any_batch():
    model, x = small(depths=(1, 1, 1, 1)), images(32)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        for batch in (x, torch.cat([x, x, x])):
            torch.testing.assert_close(program.module()(batch), model(batch), rtol=0, atol=1e-6)


def test_samples_do_not_meet():
    model, x = small().double(), images(32, dtype=torch.float64)
    alone = torch.func.vmap(lambda image: model(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(alone, model(x))
    torch.testing.assert_close(model(x[1:]), model(x)[1:])


def test_half_precision_is_finite():
    with torch.autocast("cpu", torch.bfloat16):
        assert small()(images(32)).isfinite().all()
    assert small().to(torch.bfloat16)(images(32, dtype=torch.bfloat16)).dtype == torch.bfloat16


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
