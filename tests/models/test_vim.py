"""Vision Mamba against published outputs, counts and gradients; timm's protocol; other sizes, classes and channels."""

import dataclasses

import pytest
import torch
from parity import load_case, load_published
from published_check import assert_published_count, assert_published_features, assert_published_gradients
from symmetry_check import assert_symmetries_hold
from tiny_images import images
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.models.image.vim import Vim, VimConfig, adapt_weights
from madzoo.registry import list_specs

CASE, REFERENCE = load_case("vim_tiny_patch16_224")
SMALL = VimConfig(img_size=16, patch_size=4, stride=4, num_classes=5, depth=3, embed_dim=32, d_state=4)
PUBLISHED_COUNTS = {
    "vim_tiny_patch16_224": 7148008,
    "vim_tiny_patch16_stride8_224": 7250344,
    "vim_small_patch16_224": 25796584,
    "vim_small_patch16_stride8_224": 26001256,
    "vim_base_patch16_224": 97598440,
}


def small(**changes):
    torch.manual_seed(0)
    return Vim(dataclasses.replace(SMALL, **changes)).eval()


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def published(request, tmp_path_factory):
    return load_published("vim_tiny_patch16_224", CASE, request.param, tmp_path_factory.mktemp("authors"))


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = assert_published_count(f"{name}.hustvl_in1k", PUBLISHED_COUNTS[name])
    assert spec.default_tag == "hustvl_in1k"
    assert spec.pretrained_cfg.hub_id.startswith("hustvl/Vim-")
    assert spec.pretrained_cfg.revision is spec.pretrained_cfg.sha256 is None


def test_the_family_is_registered():
    assert set(list_specs("vim_*")) == {*PUBLISHED_COUNTS, "vim_nano_patch4_32", "vim_micro_patch4_32"}


def test_published_outputs_and_taps(published):
    def module_of(name):
        """Names our module: a published block returns (mixer output, residual), and its first part is our mixer's."""
        return f"{name}.mixer" if name.count(".") == 1 else name

    assert_published_features(published, CASE, REFERENCE, "a", module_of=module_of)


@pytest.mark.parametrize("published", [torch.float64], indirect=True, ids=str)
def test_published_gradients(published):
    assert_published_gradients(published, CASE, REFERENCE)


def test_parameters_stand_in_the_published_order():
    assert list(Vim(VimConfig()).state_dict()) == [entry["key"] for entry in CASE["state_dict"]]


def test_initial_values_are_the_published_ones():
    model = small(embed_dim=128, num_classes=100, depth=4)
    mixer = model.layers[0].mixer
    steps = F.softplus(mixer.dt_proj.bias)
    assert 0.0009 < steps.min() < steps.max() < 0.11
    assert (mixer.dt_proj_b.bias == 0).all()
    assert mixer.dt_proj_b.weight.abs().max() <= mixer.dt_proj_b.in_features**-0.5
    # kaiming_uniform(a = sqrt 5) is uniform within 1 / sqrt(fan in), then divided by sqrt(depth)
    bound = mixer.out_proj.in_features**-0.5 / 2
    assert 0.99 * bound < mixer.out_proj.weight.abs().max() <= bound
    for weight in (model.head.weight, model.pos_embed, model.cls_token):
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(48**-0.5 / 0.8796, rel=0.05)
    assert (model.head.bias == 0).all()


def test_both_directions_are_summed_and_halved():
    mixer = small().layers[0].mixer.double()
    x = torch.randn(1, 7, 32, dtype=torch.float64)
    twin = Vim(SMALL).layers[0].mixer.double()
    names = {"conv1d": "conv1d_b", "x_proj": "x_proj_b", "dt_proj": "dt_proj_b", "A_log": "A_b_log", "D": "D_b"}
    swap = names | {backward: forward for forward, backward in names.items()}
    state = {}
    for name, value in mixer.state_dict().items():
        head, _, tail = name.partition(".")
        state[".".join(filter(None, [swap.get(head, head), tail]))] = value
    twin.load_state_dict(state)
    torch.testing.assert_close(twin(x.flip(1)).flip(1), mixer(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 24), (16, 28), (8, 4), (32, 20)])
def test_any_size_that_the_patches_tile(height, width):
    model, x = small(), images(height, width)
    patches = height * width // 16
    tokens = model.forward_features(x)
    assert tokens.shape == (2, patches + 1, 32)
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, patches // 2])
    assert model(x).shape == (2, 5)


def test_other_sizes_at_call_time_equal_a_rebuilt_model():
    model, x = small(), images(24)
    larger = dataclasses.replace(SMALL, img_size=24)
    rebuilt = Vim(larger).eval()
    rebuilt.load_state_dict(adapt_weights(model.state_dict(), SMALL, larger), strict=True)
    torch.testing.assert_close(model(x), rebuilt(x))
    assert torch.equal(rebuilt.pos_embed[:, 18], model.pos_embed[:, 8])


def test_positions_are_interpolated_as_a_grid_without_the_token():
    larger = dataclasses.replace(SMALL, img_size=28)
    model = small()
    adapted = adapt_weights(model.state_dict(), SMALL, larger)["pos_embed"]
    old = torch.cat([model.pos_embed[:, :8], model.pos_embed[:, 9:]], 1).detach()
    grid = F.interpolate(old.reshape(1, 4, 4, 32).permute(0, 3, 1, 2), size=(7, 7), mode="bicubic", align_corners=False)
    expected = grid.permute(0, 2, 3, 1).reshape(1, 49, 32)
    torch.testing.assert_close(torch.cat([adapted[:, :24], adapted[:, 25:]], 1), expected)


def test_an_image_that_the_patches_do_not_tile_is_refused():
    with pytest.raises(ShapeError, match="resize or pad to 16 x 20"):
        small()(images(16, 19))
    with pytest.raises(ShapeError, match="3, H, W"):
        small()(images(16, channels=1))


def test_the_residual_stream_stays_wide_in_half_precision():
    model, seen = small().to(torch.bfloat16), []
    model.layers[1].register_forward_hook(lambda _module, args, y: seen.extend([args[0].dtype, y.dtype]))
    assert model(images(16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2


def test_symmetries():
    config = dataclasses.replace(SMALL, img_size=8, depth=1, embed_dim=6, d_state=2, num_classes=3)
    model = Vim(config).double()
    assert_symmetries_hold(model, images(8, dtype=torch.float64))
    assert_symmetries_hold(model.layers[0], torch.randn(2, 5, 6, dtype=torch.float64))
    assert_symmetries_hold(model.layers[0].mixer, torch.randn(2, 5, 6, dtype=torch.float64))


def test_values_that_make_no_model_are_told():
    for wrong in ({"global_pool": "max"}, {"depth": 0}, {"num_classes": -1}, {"img_size": 18}, {"img_size": 2}):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ConfigError, match="avg"):
        small().reset_classifier(3, global_pool="averaged")


def test_the_pools():
    model, x = small(), images(16)
    tokens = model.forward_features(x)
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, 8])
    model.reset_classifier(7, global_pool="avg")
    patches = torch.cat([tokens[:, :8], tokens[:, 9:]], 1)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), patches.mean(1))
