"""optimize_for_cpu: the same numbers, the same names, another speed."""

import copy
import io
import logging
import platform
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

import madzoo
from madzoo.data.images import normalize
from madzoo.errors import ConfigError
from madzoo.inference import FoldedBatchNorm2d, FoldedConv2d, PackedLinear, optimize_for_cpu
from madzoo.layers import Mamba
from madzoo.layers.s4 import S4Block
from madzoo.layers.s4d import S4D
from madzoo.ops.linear import SMALL_WORK

ASSETS = Path(madzoo.__file__).parent / "assets"
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def vim():
    return madzoo.create_model("vim_micro_patch4_32", embed_dim=96, depth=2), torch.randn(8, 3, 32, 48)


def weft():
    return madzoo.create_model("weft_micro_patch4_28.fashion_mnist", pretrained=True), torch.randn(16, 1, 28, 28)


def patch_s4d():
    return madzoo.create_model("patch_s4d_nano_512_96.etth1", pretrained=True), torch.randn(16, 512, 7).cumsum(1)


def mamba():
    return Mamba(96), torch.randn(4, 50, 96)


def s4d():
    return S4D(128), torch.randn(4, 50, 128)


def s4():
    return S4Block(128), torch.randn(4, 50, 128)


def vit():
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 10}
    return timm.models.vision_transformer.VisionTransformer(**sizes), torch.randn(4, 3, 64, 64)


def resnet():
    return timm.create_model("resnet18", num_classes=10), torch.randn(2, 3, 64, 64)


CASES = [vim, weft, patch_s4d, mamba, s4d, s4, vit, resnet]


def first(output):
    return output[0] if isinstance(output, tuple) else output


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(params=CASES, ids=lambda make: make.__name__)
def case(request):
    torch.manual_seed(0)
    model, x = request.param()
    return model.eval(), x


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 256)


def wide_input(*shape):
    x = torch.randn(*(shape or (8, 64, 96)))
    assert x.numel() * 256 >= SMALL_WORK
    return x


def test_the_numbers_stay(case):
    model, x = case
    with torch.no_grad():
        expected, fast = first(model(x)), optimize_for_cpu(model)
        assert error(first(fast(x)), expected) <= 1e-5
        assert error(first(copy.deepcopy(fast)(x)), expected) <= 1e-5
        assert error(first(optimize_for_cpu(fast)(x)), expected) <= 1e-5
        assert error(first(fast(x[:1])), first(model(x[:1]))) <= 1e-5  # another batch size


@needs_onednn
@pytest.mark.parametrize("make", [vim, weft, patch_s4d, mamba, vit])
def test_packed_kernels_serve_whole_models(make):
    model, x = make()
    fast = optimize_for_cpu(model)
    with torch.no_grad():
        fast(x)
    packed = [module for module in fast.modules() if isinstance(module, PackedLinear) and module.prepared]
    assert packed


def test_the_given_model_is_left_alone(case):
    model, _ = case
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    fast = optimize_for_cpu(model)
    assert model.training
    assert [type(module) for module in model.modules()] == kinds
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert not any(module.training for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    after, copied = model.state_dict(), fast.state_dict()
    assert list(copied) == list(after) == list(state)
    assert all(torch.equal(state[name], after[name]) and torch.equal(state[name], copied[name]) for name in state)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fast.parameters()}


def test_other_weights_can_be_loaded(case):
    model, x = case
    fast = optimize_for_cpu(model)
    with torch.no_grad():
        fast(x)
        other = copy.deepcopy(model)
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1)
        fast.load_state_dict(other.state_dict())
        assert error(first(fast(x)), first(other(x))) <= 1e-5


def test_pickles_hold_the_dense_weights_only(layer):
    fast, x = optimize_for_cpu(layer), wide_input()
    expected = fast(x)
    file = io.BytesIO()
    torch.save(fast, file)
    assert len(file.getvalue()) < 1.2 * 4 * 96 * 256 + 2048
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)


@pytest.mark.parametrize("shape", [(96,), (0, 96), (1, 96), (512, 96), (2, 300, 96), (4, 8, 16, 96)])
@pytest.mark.parametrize("bias", [True, False])
def test_any_shape_is_served(shape, bias):
    layer, x = nn.Linear(96, 256, bias=bias), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(optimize_for_cpu(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_strided_input_is_served(layer):
    x = wide_input(8, 96, 64)
    with torch.no_grad():
        fast = optimize_for_cpu(layer)
        torch.testing.assert_close(fast(x.mT), layer(x.mT), rtol=1e-5, atol=1e-5)
        wide = torch.randn(8, 64, 200)[..., 3:99]
        torch.testing.assert_close(fast(wide), layer(wide), rtol=1e-5, atol=1e-5)


def test_a_wrong_width_is_refused_as_before(layer):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        optimize_for_cpu(layer)(wide_input(8, 64, 97))


def test_the_weight_can_be_read_and_changed_in_place(layer):
    fast, x = optimize_for_cpu(layer), wide_input()
    with torch.no_grad():
        fast(x)
        fast.weight.mul_(2)
        torch.testing.assert_close(fast(x), F.linear(x, 2 * layer.weight, layer.bias), rtol=1e-5, atol=1e-5)
        fast.weight.data = layer.weight.data.clone()
        torch.testing.assert_close(fast(x), layer(x), rtol=1e-5, atol=1e-5)


def test_gradients_by_the_input_flow(layer):
    fast, x = optimize_for_cpu(layer), wide_input().requires_grad_()
    (found,), (expected,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (fast, layer))
    torch.testing.assert_close(found, expected)


def test_gradients_flow_through_a_folded_norm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    fast, x = optimize_for_cpu(model), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        fast(x)  # what is derived here is used below
    x = x.requires_grad_()
    (found,), (expected,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (fast, model))
    torch.testing.assert_close(found, expected)


def test_function_transforms_work(layer):
    fast, x = optimize_for_cpu(layer), wide_input()
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(fast)(x), layer(x))
    norms = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    images = torch.randn(2, 3, 8, 8)
    fast = optimize_for_cpu(norms)
    gradient = torch.func.grad(lambda p: torch.func.functional_call(fast, p, images).square().sum())
    expected = torch.func.grad(lambda p: torch.func.functional_call(norms, p, images).square().sum())
    for name, found in gradient(dict(fast.named_parameters())).items():
        torch.testing.assert_close(found, expected(dict(norms.named_parameters()))[name], rtol=1e-4, atol=1e-4)


def test_optimized_models_export(layer):
    x = wide_input()
    model = nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Flatten(1, 2), layer)
    fast = optimize_for_cpu(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(fast, (x,)).module()(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_autocast_is_obeyed(layer):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert optimize_for_cpu(layer)(wide_input()).dtype == torch.bfloat16


def test_inference_mode_works(layer):
    with torch.inference_mode():
        x = wide_input()
        torch.testing.assert_close(optimize_for_cpu(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_hooks_and_subclasses_are_left_alone():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    seen = []
    hooked = nn.Linear(96, 256)
    hooked.register_forward_hook(lambda module, args, y: seen.append(y))
    fast = optimize_for_cpu(nn.Sequential(Doubled(96, 96), hooked))
    assert [type(module) for module in fast] == [Doubled, nn.Linear]


def test_a_shared_layer_stays_shared(layer):
    fast = optimize_for_cpu(nn.ModuleList([layer, layer]))
    assert fast[0] is fast[1]
    assert isinstance(fast[0], PackedLinear)


def test_batch_norms_behind_convolutions_are_folded(case):
    model, _ = case
    folded = [module for module in optimize_for_cpu(model).modules() if isinstance(module, FoldedConv2d)]
    sequences = [module for module in model.modules() if isinstance(module, nn.Sequential)]
    pairs = [pair for sequence in sequences for pair in zip(list(sequence)[:-1], list(sequence)[1:], strict=True)]
    expected = [isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) for a, b in pairs]
    assert len(folded) == sum(expected)


def test_norms_that_cannot_be_folded_stay():
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    used_twice = nn.ModuleList([nn.Sequential(conv, norm), conv])
    without_statistics = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    watched = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    watched[0].register_forward_hook(lambda module, args, y: None)
    for model in (used_twice, without_statistics, watched):
        kinds = {type(module) for module in optimize_for_cpu(model).modules()}
        assert not kinds & {FoldedConv2d, FoldedBatchNorm2d}


@pytest.mark.parametrize(
    ("model", "dtype", "message"),
    [
        (nn.Linear(2, 2), torch.float16, "float32 or bfloat16"),
        (nn.Linear(2, 2), torch.float64, "float32 or bfloat16"),
        (nn.Linear(2, 2).double(), None, "not in float32"),
        (nn.Linear(2, 2).bfloat16(), torch.bfloat16, "not in float32"),
        (nn.Linear(2, 2, device="meta"), None, "not on the CPU"),
    ],
)
def test_what_cannot_be_served_is_refused(model, dtype, message):
    with pytest.raises(ConfigError, match=message):
        optimize_for_cpu(model, dtype=dtype)


@pytest.mark.parametrize("make", [vim, weft])
def test_training_is_refused_until_eval(make):
    model, x = make()
    fast = optimize_for_cpu(model).train()
    with pytest.raises(ConfigError, match="inference only"):
        fast(x)
    fast.eval()(x)


def test_forecasters_predict():
    model, x = patch_s4d()
    quantiles, mean = optimize_for_cpu(model).predict(x, prediction_length=200)
    expected, expected_mean = model.predict(x, prediction_length=200)
    assert error(quantiles, expected) <= 1e-5
    assert error(mean, expected_mean) <= 1e-5


def test_mamba_steps():
    model, _ = mamba()
    fast, state, x_t = optimize_for_cpu(model), model.init_state(3), torch.randn(3, 96)
    with torch.no_grad():
        torch.testing.assert_close(fast.step(x_t, fast.init_state(3))[0], model.step(x_t, state)[0])


def test_bfloat16_multiplies_wide_layers_only():
    model, x = vim()
    fast = optimize_for_cpu(model, dtype=torch.bfloat16)
    mixer = fast.layers[0].mixer
    assert mixer.in_proj.product_dtype == mixer.out_proj.product_dtype == torch.bfloat16
    assert {layer.product_dtype for layer in (mixer.x_proj, mixer.dt_proj, fast.head)} == {torch.float32}
    assert {p.dtype for p in fast.parameters()} == {torch.float32}
    with torch.no_grad():
        y, expected = fast(x), model.eval()(x)
        assert y.dtype == torch.float32
        assert 1e-5 < error(y, expected) < 0.03
        assert torch.equal(optimize_for_cpu(optimize_for_cpu(model), dtype=torch.bfloat16)(x), y)
        assert error(optimize_for_cpu(fast)(x), expected) <= 1e-5


def test_bfloat16_works_without_onednns_kernels(layer, monkeypatch, caplog):
    x, expected = wide_input(), optimize_for_cpu(layer, dtype=torch.bfloat16)
    expected = expected(x)
    monkeypatch.setattr("madzoo.inference._bfloat16_packs", lambda: False)
    monkeypatch.setattr("madzoo.inference._bfloat16_is_native", lambda: False)
    with caplog.at_level(logging.INFO, logger="madzoo.inference"):
        fast = optimize_for_cpu(layer, dtype=torch.bfloat16)
    assert "no bfloat16 instructions" in caplog.text
    assert error(fast(x), expected) < 0.01


def test_torch_without_onednn_runs_as_before(layer, monkeypatch, caplog):
    for module in ("madzoo.inference", "madzoo.ops.linear"):
        monkeypatch.setattr(sys.modules[module], "HAS_ONEDNN", False)
    with caplog.at_level(logging.INFO, logger="madzoo.inference"):
        fast = optimize_for_cpu(layer)
    assert "without oneDNN" in caplog.text
    x = wide_input()
    with torch.no_grad():
        torch.testing.assert_close(fast(x), layer(x))
    assert fast.prepared is None


def test_bfloat16_agrees_on_a_bundled_checkpoint():
    model = madzoo.create_model("weft_micro_patch4_28.fashion_mnist", pretrained=True).eval()
    x = shifted_images(model.pretrained_cfg)
    assert len(x) == 250
    with torch.no_grad():
        expected, found = model(x), optimize_for_cpu(model, dtype=torch.bfloat16)(x)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() >= 0.99
    assert error(found, expected) < 0.03


def shifted_images(cfg):
    """Returns the five bundled images, mirrored and moved by up to two pixels each way."""
    images = torch.stack([pil_to_tensor(Image.open(path)) for path in sorted(ASSETS.glob("fashion_mnist_test_*.png"))])
    images = torch.cat([images, images.flip(-1)])
    steps = range(-2, 3)
    moved = torch.cat([images.roll((down, right), (2, 3)) for down in steps for right in steps])
    return normalize(moved, tuple(cfg["mean"]), tuple(cfg["std"]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_kept(layer):
    resource = pytest.importorskip("resource")
    optimize_for_cpu(layer)
    for _ in range(3):
        torch.ones(4 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(4 * 2**20)  # 16 MiB, 4096 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2 * 4096
