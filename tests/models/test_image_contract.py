"""timm's protocol, one contract for every image family: what a caller of timm's models may do with ours."""

import copy
import io

import pytest
import torch
from timm.models._features import FeatureGetterNet
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from tiny_images import TINY, images, tiny
from torch import nn

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model, list_models, model_info
from madzoo.layers.drop_path import DropPath
from madzoo.models.image.features import FeatureMaps
from madzoo.models.image.protocol import ImageClassifier

SLOW_TO_EXPORT = {"vmamba_m2", "vmamba_plain", "vmamba_v0", "s4_prenorm", "s4nd_vit", "s4nd_convnext", "weft_deep"}
SYSTEM_PER_CHANNEL = {"s4nd_convnext"}  # their stem has a state space system for every image channel, which no sum fits
# In plain aot_eager its backward takes a view that the strides do not allow; inductor's decompositions take none.
TRACED_BY = {"s4_prenorm": "aot_eager_decomp_partition"}
COMPILER_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def pytest_generate_tests(metafunc):
    """Runs every test for every form; those that take seconds, beside another form of the family, with -m slow."""
    is_export = metafunc.function.__name__ == "test_an_exported_program_serves_any_batch"
    slow = SLOW_TO_EXPORT if is_export else set()
    metafunc.parametrize("form", [pytest.param(form, marks=[pytest.mark.slow] * (form in slow)) for form in TINY])


def stored(model, path):
    torch.save({"model": model.state_dict()}, path)
    return path


def loaded(form, path, **changes):
    arch, options = TINY[form]
    return create_model(arch, checkpoint_path=path, **{**options, **changes}).eval()


def loss_of(model, x):
    y = model(x)
    return (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum()


@torch.no_grad()
def test_features_and_head_make_the_forward(form):
    model, x = tiny(form), images()
    features = model.forward_features(x)
    pooled, logits = model.forward_head(features, pre_logits=True), model(x)
    assert logits.shape == (2, 5) and pooled.shape == (2, model.num_features)
    assert model.head_hidden_size == model.num_features == model.feature_info[-1]["num_chs"]
    torch.testing.assert_close(model.forward_head(features), logits)
    torch.testing.assert_close(model.get_classifier()(pooled), logits)


@torch.no_grad()
def test_the_head_is_reset(form):
    model, x = tiny(form).double(), images(dtype=torch.float64)
    assert isinstance(model, ImageClassifier) and model.task == "image-classification"
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == model.config.num_classes == 7
    assert model.get_classifier().weight.dtype == torch.float64
    assert model.get_classifier() in list(model.modules())
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled) and isinstance(model.get_classifier(), nn.Identity)
    assert model.num_classes == 0
    with pytest.raises(ConfigError, match="averaged"):
        model.reset_classifier(3, global_pool="averaged")
    with pytest.raises(ConfigError):
        model.reset_classifier(-1)


@torch.no_grad()
def test_without_pooling_every_position_is_classified(form):
    model, x = tiny(form), images(64, 96)
    model.reset_classifier(3, "")
    features, logits = model.forward_features(x), model(x)
    assert model.global_pool == model.config.global_pool == ""
    axis = 1 if model.output_fmt == "NCHW" else -1
    assert logits.movedim(axis, -1).shape == (*features.movedim(axis, -1).shape[:-1], 3)


@torch.no_grad()
def test_no_classes_are_features(form):
    model, x = tiny(form), images()
    bare = tiny(form, num_classes=0)
    assert bare(x).shape == (2, model.num_features)
    assert set(model.state_dict()) - set(bare.state_dict()) == {f"{model.head_name}.weight", f"{model.head_name}.bias"}


@torch.no_grad()
def test_intermediates_are_as_described(form):
    model, x = tiny(form), images(64, 96)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    for info, found in zip(model.feature_info, maps, strict=True):
        assert found.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
        assert model.get_submodule(info["module"])
    for fmt, shown in {
        "NHWC": lambda y: y.permute(0, 2, 3, 1),
        "NLC": lambda y: y.flatten(2).transpose(1, 2),
    }.items():
        others = model.forward_intermediates(x, output_fmt=fmt, intermediates_only=True)
        torch.testing.assert_close(others, [shown(found) for found in maps])


@torch.no_grad()
def test_intermediates_are_chosen(form):
    model, x = tiny(form), images(64, 96)
    final, maps = model.forward_intermediates(x)
    early = model.forward_intermediates(x, indices=[1, -len(maps)], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, maps[:2])
    torch.testing.assert_close(model.forward_intermediates(x, indices=2, intermediates_only=True), maps[-2:])
    (last,) = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NHWC", intermediates_only=True)
    torch.testing.assert_close(last, model._grid(final, x))
    seen = []
    deep = model.feature_info[2]["module"].removesuffix(".blocks")
    with model.get_submodule(deep).register_forward_hook(lambda *_: seen.append(1)):
        model.forward_intermediates(x, indices=[1], stop_early=True)
    assert not seen
    for wrong in ({"indices": [len(maps)]}, {"indices": len(maps) + 1}, {"indices": 0}, {"output_fmt": "NCL"}):
        with pytest.raises(ConfigError):
            model.forward_intermediates(x, **wrong)


@torch.no_grad()
def test_features_only(form, tmp_path):
    model, x = tiny(form), images(64, 96)
    path, maps = stored(model, tmp_path / "w.pth"), model.forward_intermediates(x, intermediates_only=True)
    for wanted, numbers in {(1, 0): (0, 1), 2: (len(maps) - 2, len(maps) - 1), (-1,): (len(maps) - 1,)}.items():
        backbone = loaded(form, path, features_only=True, out_indices=wanted)
        info = backbone.feature_info
        assert isinstance(backbone, FeatureMaps) and info.out_indices == numbers
        found = backbone(x)
        torch.testing.assert_close(found, [maps[number] for number in numbers])
        assert info.channels() == [y.shape[1] for y in found]
        assert info.reduction() == [64 // y.shape[2] for y in found]
        assert [entry["module"] for entry in info.get_dicts()] == info.module_name()
        assert backbone.pretrained_cfg["architecture"] == TINY[form][0] and not backbone.num_classes
    assert len(loaded(form, path, features_only=True)(x)) == min(4, len(maps))
    with pytest.raises(ConfigError):
        loaded(form, path, features_only=True, out_indices=[len(maps)])
    with pytest.raises(ConfigError, match="features_only"):
        loaded(form, path, out_indices=[0])


def test_features_leave_no_parameter_idle(form):
    backbone = FeatureMaps(tiny(form).train(), out_indices=[1])
    backbone.set_grad_checkpointing()
    (found,) = backbone(images())
    (found * torch.arange(found.numel()).reshape(found.shape).sin()).sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


@torch.no_grad()
def test_timms_own_feature_getter(form):
    model, x = tiny(form), images(64, 96)
    maps = model.forward_intermediates(x, norm=True, intermediates_only=True)
    for norm in (False, True):
        getter = FeatureGetterNet(copy.deepcopy(model), out_indices=(0, 2), norm=norm)
        found = getter(x)
        assert getter.feature_info.channels() == [y.shape[1] for y in found]
        if norm:
            torch.testing.assert_close(found, [maps[0], maps[2]])


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_channels_keep_the_weights(form, channels, tmp_path, caplog):
    model = tiny(form)
    other = loaded(form, stored(model, tmp_path / "w.pth"), in_chans=channels)
    assert other.pretrained_cfg["input_size"] == [channels, 64, 64]
    assert ("adapted" in caplog.text or "afresh" in caplog.text) == (channels != 3)
    with pytest.raises(ShapeError):
        other(images(channels=channels + 1))
    if form in SYSTEM_PER_CHANNEL:
        assert other(images(channels=channels)).isfinite().all()
        return
    grey = images(channels=1)
    # A grey picture is its three equal channels; four are the first once more, all of them scaled by 3 / 4.
    expected = grey.repeat(1, 3, 1, 1) if channels != 4 else grey * torch.tensor([2.0, 1, 1]).reshape(1, 3, 1, 1) * 0.75
    torch.testing.assert_close(other(grey.repeat(1, channels, 1, 1)), model(expected), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_any_size_at_call_time(form):
    model, x = tiny(form), images()
    before = model(x)
    for height, width in ((96, 96), (64, 128), (32, 64)):
        y = images(height, width)
        assert model(y).shape == (2, 5) and model(y).isfinite().all()
        assert (model(y) - model(y.flip(-1))).abs().max() > 0
    assert torch.equal(model(x), before)
    for wrong in (images(channels=2), torch.randn(3, 64, 64), torch.randn(1, 3, 0, 64)):
        with pytest.raises(ShapeError):
            model(wrong)


def test_recomputing_changes_nothing(form):
    plain, light = tiny(form).train(), tiny(form).train()
    light.set_grad_checkpointing()
    results = []
    for model in (plain, light):
        loss = loss_of(model, images(batch=3))
        loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()], list(model.buffers())))
    torch.testing.assert_close(*results)
    light.set_grad_checkpointing(False)
    assert not light.grad_checkpointing


def test_recomputing_runs_the_blocks_twice(form):
    model, runs = tiny(form).train(), []
    stages = model.get_submodule(model.stages_name)
    first = next(m for m in stages.modules() if not list(m.children()) and list(m.parameters(recurse=False)))
    first.register_forward_pre_hook(lambda *_: runs.append(1))
    loss_of(model, images()).backward()
    once = len(runs)
    model.set_grad_checkpointing()
    loss_of(model, images()).backward()
    assert len(runs) == 3 * once
    model.eval()
    with torch.no_grad():
        model(images())
    assert len(runs) == 4 * once


def test_branches_are_dropped_in_training_only(form):
    model, x = tiny(form, drop_path_rate=0.6), images()
    rates = list(dict.fromkeys(m.p for m in model.modules() if isinstance(m, DropPath)))
    assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.6)
    with torch.no_grad():
        for rates in ({"drop_path_rate": 0.6}, {"drop_rate": 0.3}):
            dropping = tiny(form, **rates)
            assert torch.equal(dropping(x), model(x))
            dropping.train()
            assert not torch.equal(dropping(x), dropping(x))


def test_groups_of_parameters(form):
    model = tiny(form)
    names = {id(p): name for name, p in model.named_parameters()}
    kept = model.no_weight_decay()
    assert kept <= set(names.values())
    for group in param_groups_weight_decay(model, 0.05, no_weight_decay_list=kept):
        told = {names[id(p)] for p in group["params"]}
        is_decayed = group["weight_decay"] > 0
        assert told and all((model.get_parameter(n).dim() > 1 and n not in kept) == is_decayed for n in told)
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=kept, layer_decay=0.5)
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.keys() == set(names.values())
    blocks = [scales[n] for n in names.values() if n.startswith(f"{model.stages_name}.")]
    assert scales[f"{model.head_name}.weight"] == 1.0 > max(blocks) > min(blocks)
    stem = scales[next(iter(dict(model.named_parameters())))]
    assert stem == min(scales.values()) <= min(blocks)
    assert set(model.group_matcher()) == set(model.group_matcher(coarse=True)) == {"stem", "blocks"}


def test_every_parameter_learns(form):
    model = tiny(form).train()
    loss_of(model, images(batch=4)).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not idle


@torch.no_grad()
def test_copies_and_states(form):
    model, x = tiny(form), images()
    state, twin = model.state_dict(), create_model(TINY[form][0], **TINY[form][1])
    twin.load_state_dict(state, strict=True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), twin.eval(), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
        assert other.config == model.config and not other.training
    clone = copy.deepcopy(model)
    clone.reset_classifier(2)
    assert model.num_classes == 5 and model(x).shape == (2, 5)
    assert model.train().training and model.eval() is model


@torch.no_grad()
def test_samples_do_not_meet(form):
    model, x = tiny(form).double(), images(64, 96, batch=3, dtype=torch.float64)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-9, atol=1e-11)


def test_half_precision_is_finite(form):
    model, x = tiny(form).train(), images()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().square().sum().backward()
    assert y.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        exact = model.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(x).float() - exact).abs().max() < 0.1 * exact.abs().max()
        half = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


@torch.no_grad()
@COMPILER_WARNINGS
def test_an_exported_program_serves_any_batch(form):
    model, x = tiny(form), images()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for batch in (x, images(batch=3)):
        torch.testing.assert_close(program(batch), model(batch), rtol=1e-4, atol=1e-5)


@pytest.fixture
def fresh_compiler():
    """Forgets what was compiled before: else a form of other sizes than the last one is compiled for any size."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def shallow(form):
    """Makes a form with as few blocks as show all of its kinds: code generation takes a second for each kernel."""
    options = TINY[form][1]
    return tiny(form, **({"depth": 2} if "depth" in options else {"depths": (1,) * len(options["depths"])}))


@pytest.mark.slow
@COMPILER_WARNINGS
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])  # what is traced, and the code generated from it
def test_a_compiled_model_answers_and_learns_alike(form, backend):
    model, x = shallow(form), images()
    backend = TRACED_BY.get(form, backend) if backend == "aot_eager" else backend
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    for net in (model, compiled):
        loss_of(net, x).backward()
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-3, atol=1e-3)


def test_every_family_is_under_this_contract(form):
    """A family without an entry in ``tests/tiny_images.py`` fails here, once per form."""
    families = {model_info(name).family for name in list_models(task="image-classification")}
    assert families <= {model_info(arch).family for arch, _ in TINY.values()}
    assert model_info(TINY[form][0]).task == "image-classification"
