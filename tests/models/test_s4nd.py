"""S4ND classifiers against published outputs and gradients; authors' layouts; other sizes, classes and channels."""

import dataclasses

import numpy as np
import pytest
import torch
from parity import DATA, LIMITS, load_case, relative_error, rule_input
from published_check import assert_published_count

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.image import s4nd, s4nd_convnext
from madzoo.models.image.s4nd import S4NDClassifier, S4NDConfig
from madzoo.models.image.s4nd_convnext import S4NDConvNeXt, S4NDConvNeXtConfig
from madzoo.registry import find_spec, list_specs

CASE, REFERENCE = load_case("s4nd_classifier")
VARIANTS = pytest.mark.parametrize("name", CASE["variants"])
# Counted by building the networks of state-spaces/s4@e757cef, less what they never use: the kernels of a second axis in
# the transformer-like model (the paper says 88.8 million), and the skip of ConvNeXt's stem.
PUBLISHED_COUNTS = {
    "s4nd_iso_base_32": 3964170,
    "s4nd_iso_small_32": 1196810,
    "s4nd_vit_base_patch16_224": 88786408,
    "s4nd_convnext_tiny_224": 29409454,
    "s4nd_convnext_micro_128": 9644206,
}
PYRAMID = S4NDConvNeXtConfig(
    img_size=16, patch_size=2, num_classes=5, depths=(1, 2), widths=(6, 8), stem_width=3, stem_l_max=4, d_state=4
)
FORMS = {
    "iso": S4NDConfig(num_classes=5, depth=2, embed_dim=8, d_state=4, l_max=6),
    "vit": S4NDConfig(
        num_classes=5, depth=2, embed_dim=8, d_state=4, l_max=9, patch_size=4, axes=1, mlp_ratio=2.0, channels=2
    ),
    "convnext": dataclasses.replace(PYRAMID, layer_scale=0.1),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def small(form, **changes):
    torch.manual_seed(0)
    config = dataclasses.replace(FORMS[form], **changes)
    return (S4NDConvNeXt if form == "convnext" else S4NDClassifier)(config).eval()


def family(form):
    return s4nd_convnext if form == "convnext" else s4nd


def images(height, width=None, *, channels=3):
    return torch.randn(2, channels, height, width or height, generator=torch.Generator().manual_seed(1))


def published(name, dtype, folder):
    """Loads published weights through the door that a user takes."""
    path, before = folder / "authors.ckpt", torch.get_default_dtype()
    prefix = "" if "iso" in name else "model."  # the trainer's own, where there is no encoder beside the model
    with np.load(DATA / "s4nd_classifier" / "weights.npz") as arrays:
        kept = {key.removeprefix(f"{name}."): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(name)}
    torch.save({"state_dict": {prefix + key: value for key, value in kept.items()}, "epoch": 3}, path)
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in CASE["variants"][name]["options"].items()}
    torch.set_default_dtype(dtype)
    try:
        return create_model(name, checkpoint_path=path, **options).eval()
    finally:
        torch.set_default_dtype(before)


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_published_outputs(name, dtype, tmp_path):
    model = published(name, dtype, tmp_path)
    for number, described in enumerate(CASE["variants"][name]["inputs"]):
        with torch.no_grad():
            logits = model(rule_input(described["seed"], tuple(described["shape"]), dtype))
        assert logits.dtype == dtype
        # In single precision the published pyramid, whose frequencies come near 0, is off by 1.4e-4 itself.
        limit = 2e-4 if "convnext" in name and dtype == torch.float32 else LIMITS[dtype]
        assert relative_error(logits, REFERENCE[f"{name}.{number}.logits"]) < limit


@VARIANTS
def test_published_gradients(name, tmp_path):
    described, model = CASE["variants"][name], published(name, torch.float64, tmp_path)
    first = described["inputs"][0]
    x = rule_input(first["seed"], tuple(first["shape"]), torch.float64).requires_grad_()
    y = model(x)
    (y * rule_input(first["seed"] + 1000, tuple(y.shape), torch.float64)).sum().backward()
    assert x.grad is not None and x.grad.norm().item() == pytest.approx(described["input_grad_norm"], rel=1e-9)
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    expected = find_spec(name).remap_keys(described["param_grad_l2"])
    assert norms.keys() == expected.keys()
    # Fourier systems have a frequency near 0, where the published generating function cancels.
    loose = {key for key in norms if "convnext" in name and ".kernel." in key}
    assert {key: norms[key] for key in loose} == pytest.approx({key: expected[key] for key in loose}, rel=1e-5)
    strict = norms.keys() - loose
    assert {key: norms[key] for key in strict} == pytest.approx({key: expected[key] for key in strict}, rel=1e-9)


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = assert_published_count(name, PUBLISHED_COUNTS[name])
    assert spec.paper == "2210.06583" and not spec.weights
    assert spec.preparation.input_size == (3, spec.config.img_size, spec.config.img_size)
    assert spec.preparation.crop_pct == (0.9 if spec.config.img_size == 224 else 1)
    assert (spec.preparation.mean is None) == (name == "s4nd_convnext_micro_128")


def test_the_families_are_registered():
    assert set(list_specs("s4nd_*")) == set(PUBLISHED_COUNTS)


@EVERY_FORM
@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 28), (4, 8)])
def test_any_size_at_call_time(form, height, width):
    model = small(form)
    side = {"iso": 1, "vit": 4, "convnext": 4}[form]
    x = images(height, width)
    assert model.forward_features(x).shape == (2, height // side, width // side, 8)
    assert model(x).shape == (2, 5)
    final, features = model.forward_intermediates(x)
    assert [f.shape[1:] for f in features] == [
        (info["num_chs"], height // info["reduction"], width // info["reduction"]) for info in model.feature_info
    ]
    torch.testing.assert_close(final, model.forward_features(x))


@EVERY_FORM
def test_an_image_that_does_not_fit_is_refused(form):
    for wrong in (images(16, channels=1), torch.zeros(3, 16, 16), torch.zeros(1, 3, 0, 16)):
        with pytest.raises(ShapeError):
            small(form)(wrong)


@EVERY_FORM
def test_every_parameter_learns(form):
    model = small(form, drop_rate=0.1, drop_path_rate=0.1).train()
    model(images(16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@EVERY_FORM
def test_checkpointing_changes_no_gradient(form):
    gradients = []
    for enable in (False, True):
        model = small(form).train()
        model.set_grad_checkpointing(enable)
        model(images(16)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


@EVERY_FORM
def test_the_protocol_of_timm(form):
    model, x = small(form), images(16)
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() < names and set(model.group_matcher()) == {"stem", "blocks"}
    torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x)))
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7
    model.reset_classifier(3, "")
    assert model(x).shape == (2, *model.forward_features(x).shape[1:3], 3)


@EVERY_FORM
def test_initial_values(form):
    model = small(form, **({"init_weights": "vit", "mlp_ratio": 4.0} if form == "vit" else {}))
    linear = {
        "iso": "blocks.0.layer.output_linear.0",
        "vit": "blocks.1.layer.ff.2",
        "convnext": "stages.0.blocks.0.mlp.fc1",
    }
    drawn = model.get_submodule(linear[form])
    assert (drawn.weight.std().item() < 0.05) == (form != "iso") == (not drawn.bias.any())
    if form == "convnext":
        assert model.get_submodule("stem.post_stem.1").bias.any()


@EVERY_FORM
def test_other_classes_and_channels(form):
    model = small(form)
    target = dataclasses.replace(model.config, num_classes=3)
    state = family(form).adapt_weights(model.state_dict(), model.config, target)
    head = model.head_name
    assert set(model.state_dict()) - set(state) == {f"{head}.weight", f"{head}.bias"}
    assert (
        family(form).adapt_weights(model.state_dict(), model.config, model.config).keys() == model.state_dict().keys()
    )
    channels = 6 if form == "convnext" else 1  # a pyramid's image channels have systems of their own
    other = dataclasses.replace(model.config, in_chans=channels)
    adapted = type(model)(other).eval()
    adapted.load_state_dict(family(form).adapt_weights(model.state_dict(), model.config, other), strict=True)
    x, repeated = images(16, channels=min(channels, 3)), images(16, channels=min(channels, 3))
    if channels == 1:
        repeated = x.repeat(1, 3, 1, 1)
    else:
        x = x.repeat(1, 2, 1, 1)
    torch.testing.assert_close(adapted(x), model(repeated), rtol=1e-4, atol=1e-5)


def test_one_channel_gets_systems_of_its_own():
    model, grey = small("convnext"), dataclasses.replace(FORMS["convnext"], in_chans=1)
    state = s4nd_convnext.adapt_weights(model.state_dict(), model.config, grey)
    left_out = set(model.state_dict()) - set(state)
    assert left_out and all(key.startswith("stem.stem.kernel.") for key in left_out)
    adapted = S4NDConvNeXt(grey).eval()
    assert set(adapted.load_state_dict(state, strict=False).missing_keys) == left_out
    assert adapted(images(16, channels=1)).isfinite().all()


@pytest.mark.slow
@EVERY_FORM
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_exported_program_answers_as_the_model(form):
    model, x = small(form), images(16)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@EVERY_FORM
def test_half_precision_is_finite(form):
    with torch.autocast("cpu", torch.bfloat16):
        assert small(form)(images(16)).isfinite().all()


def test_values_that_make_no_model_are_told():
    for wrong in ({"depth": 0}, {"axes": 3}, {"num_classes": -1}, {"global_pool": "max"}, {"init_weights": "jax"}):
        with pytest.raises(ConfigError):
            dataclasses.replace(FORMS["iso"], **wrong)
    for wrong in ({"depths": ()}, {"widths": (6,)}, {"img_size": 3}, {"num_classes": -1}, {"global_pool": "max"}):
        with pytest.raises(ConfigError):
            dataclasses.replace(PYRAMID, **wrong)


@pytest.mark.parametrize("name", [name for name in list_specs("s4*") if find_spec(name).family == "s4"])
def test_inputs_are_told_without_weights(name):
    spec = find_spec(name)
    prepared = spec.preparation
    assert prepared == spec.inputs and prepared.input_size == (spec.config.in_chans, *[spec.config.img_size] * 2)
    assert prepared.mean is not None and prepared.std is not None
    assert len(prepared.mean) == len(prepared.std) == spec.config.in_chans and prepared.crop_pct == 1
