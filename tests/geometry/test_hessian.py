"""Hessian- and GGN-vector products: dense brute force, every mixer of the zoo, and the promises to the caller."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from madzoo import layers
from madzoo.errors import BackendError, ConfigError, DataError, ShapeError
from madzoo.factory import create_model
from madzoo.geometry import hessian_vector_product
from tests.geometry.cases import CASES, mlp

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def unit(size: int, seed: int = 0) -> Tensor:
    v = normal(size, seed=seed)
    return v / v.norm()


class ComplexGain(nn.Module):
    """|(a + ib) * x|^2 summed with a tanh of its real part: a parameter that is complex, between two of odd size."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(normal(1))
        self.gain = nn.Parameter(torch.complex(normal(3, seed=1), normal(3, seed=2)))
        self.last = nn.Parameter(normal(3, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.gain * x + self.shift
        return (z.real.tanh() * self.last + z.abs().square()).sum(-1, keepdim=True)


class FusedAttention(nn.Module):
    """Attention by torch's fused operator, which has no second derivative unless one is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)).mean(1)


def real_point(model: nn.Module) -> tuple[Tensor, dict[str, tuple[slice, nn.Parameter]]]:
    """Returns the parameters as one real vector, and where each lies."""
    parts, places, start = [], {}, 0
    for name, p in model.named_parameters():
        part = (torch.view_as_real(p) if p.is_complex() else p).detach().flatten()
        places[name] = slice(start, start := start + len(part)), p
        parts.append(part)
    return torch.cat(parts), places


def network_at(model: nn.Module, places: dict[str, tuple[slice, nn.Parameter]], theta: Tensor, x: Tensor) -> Tensor:
    values = {}
    for name, (place, p) in places.items():
        part = theta[place]
        values[name] = (torch.complex(part[0::2], part[1::2]) if p.is_complex() else part).reshape(p.shape)
    return functional_call(model, values, (x,))


def dense_columns(H) -> Tensor:
    return torch.stack([H(e) for e in torch.eye(H.num_params, dtype=DOUBLE)], dim=1)


DENSE = {
    "relu": (lambda: mlp(3, 5, 2), (20, 3), (20, 2)),
    "gelu": (lambda: mlp(3, 5, 2, activation=nn.GELU), (20, 3), (20, 2)),
    "attention": (CASES["attention_d6_h2"].build, (4, 3, 6), (4, 3, 6)),
    "gru": (CASES["gru"].build, (4, 5, 2), (4, 5, 2)),
    "batchnorm": (CASES["batchnorm_eval"].build, (4, 2, 5, 5), (4, 2)),
    "s4d": (CASES["s4d_2_channels_3_pairs"].build, (3, 2, 12), (3, 2, 12)),
    "complex": (ComplexGain, (6, 3), (6, 1)),
    "fused_attention": (FusedAttention, (4, 3, 4), (4, 2)),
}


def dense_case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    build, inputs, targets = DENSE[name]
    torch.manual_seed(0)
    return build().double().eval(), normal(*inputs), normal(*targets, seed=9)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of the dense references
@pytest.mark.parametrize("name", DENSE)
def test_hessian_is_the_dense_one(name: str) -> None:
    model, x, y = dense_case(name)
    theta, places = real_point(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = jacrev(jacrev(lambda t: nn.functional.mse_loss(network_at(model, places, t, x), y)))(theta)
    found = dense_columns(hessian_vector_product(model, (x, y), nn.functional.mse_loss))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of the dense references
@pytest.mark.parametrize("name", DENSE)
def test_ggn_is_the_dense_one(name: str) -> None:
    model, x, _ = dense_case(name)
    theta, places = real_point(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        J = jacrev(lambda t: network_at(model, places, t, x).flatten(1))(theta)
    logits = model(x).flatten(1).detach()
    labels = torch.arange(len(x)) % logits.shape[1]
    p = logits.softmax(-1)
    expected = torch.einsum("nkp,nkl,nlq->pq", J, torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1), J) / len(x)
    H = hessian_vector_product(
        model, (x, labels), lambda z, t: nn.functional.cross_entropy(z.flatten(1), t), operator="ggn"
    )
    torch.testing.assert_close(dense_columns(H), expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()) + 1e-14)
    plain = hessian_vector_product(model, (x, labels), lambda z, t: nn.functional.cross_entropy(z.flatten(1), t))
    torch.testing.assert_close(H.gradient, plain.gradient, rtol=1e-10, atol=1e-14)
    assert H.loss == pytest.approx(plain.loss, rel=1e-14)


MIXERS = {
    "s4d": lambda: layers.S4D(4, d_state=6),
    "s4_nplr": lambda: layers.S4Block(4, d_state=6, l_max=9, mode="nplr"),
    "s4_diag": lambda: layers.S4Block(4, d_state=6, l_max=9),
    "s5": lambda: layers.S5(4, d_state=8, blocks=2),
    "linoss": lambda: layers.LinOSS(4, d_state=3),
    "mamba": lambda: layers.Mamba(4, d_state=3),
    "mamba_plus": lambda: layers.MambaPlus(4, d_state=3),
    "mamba2": lambda: layers.Mamba2(4, d_state=3, headdim=4),
    "mamba3": lambda: layers.Mamba3(4, d_state=8, headdim=4),
    "hydra": lambda: layers.Hydra(4, d_state=3, headdim=4),
    "delta_net": lambda: layers.DeltaNet(4, num_heads=2),
    "long_conv": lambda: layers.LongConv(4, kernel_size=9),
    "symmetric": lambda: layers.SymmetricMixer(4, d_state=3),
}


def check_against_differences(model: nn.Module, x: Tensor, y: Tensor, *, step: float = 1e-4) -> None:
    """A product is the slope of the gradient along its vector, and the map is symmetric."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():  # zero-initialised projections would hide what stands behind them
            p.add_(0.02 * torch.randn_like(p))
    H = hessian_vector_product(model, (x, y), nn.functional.mse_loss)
    v, w = unit(H.num_params, 1), unit(H.num_params, 2)
    along = H.sampled.unflatten(v)

    def gradient_at(t: float) -> Tensor:
        moved = copy.deepcopy(H.sampled.network)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(t * along[name])
        return hessian_vector_product(moved, (x, y), nn.functional.mse_loss, operator="ggn").gradient

    # Fourth order in the step, and from gradients of the plain backward pass.
    near, far = (gradient_at(s) - gradient_at(-s) for s in (step, 2 * step))
    found, expected = H(v), (8 * near - far) / (12 * step)
    assert (found - expected).norm() < 1e-6 * expected.norm() + 1e-11 * H.gradient.norm() / step
    assert math.isclose(w @ found, v @ H(w), rel_tol=1e-7, abs_tol=1e-10 * found.norm())


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_is_differentiated_twice(name: str) -> None:
    torch.manual_seed(0)
    model = MIXERS[name]().double().eval()
    x = normal(2, 9, 4)
    check_against_differences(model, x, torch.zeros_like(model(x)))


FAMILIES = {
    "vim_nano_patch4_32": {"depth": 1, "embed_dim": 8, "d_state": 3, "img_size": 16},
    "weft_micro_patch4_28": {"depth": 1, "embed_dim": 16, "d_state": 3, "img_size": 12},
    "plainmamba_l1_224": {"depth": 1, "embed_dim": 8, "d_state": 3, "img_size": 32, "num_classes": 3},
    "vmamba_tiny_s2l5_224": {"depths": (1, 1, 1, 1), "embed_dim": 4, "img_size": 32, "num_classes": 3},
    "s4nd_iso_small_32": {"depth": 1, "embed_dim": 4, "d_state": 4, "img_size": 8, "l_max": 8},
    "patch_s4d_nano_512_96": {"d_model": 4, "depth": 1, "d_state": 4, "context_length": 64, "prediction_length": 3},
    "season_s4d_small_672_192": {
        "d_model": 4,
        "depth": 1,
        "d_state": 4,
        "context_length": 96,
        "prediction_length": 24,
        "bottleneck": 4,
    },
    "patch_mamba_nano_512_96": {"d_model": 4, "depth": 1, "d_state": 3, "context_length": 64, "prediction_length": 3},
    "flowstate_small_512_96": {"d_model": 4, "depth": 1, "d_state": 4, "state_blocks": 1, "context_length": 32},
    "longconv_delta_small_512_96": {"d_model": 8, "depth": 2, "num_heads": 2, "context_length": 32},
    "linoss_nano_512_96": {"d_model": 4, "depth": 1, "d_state": 4, "context_length": 64, "prediction_length": 3},
    "bi_mamba_plus_tiny_patch24_96_96": {"d_model": 8, "d_ff": 8, "d_state": 2, "prediction_length": 3},
    "s_mamba_nano_96_192": {"d_model": 8, "d_ff": 8, "depth": 1, "context_length": 12, "prediction_length": 3},
    "timemachine_etth1_96_96": {"n1": 8, "n2": 4, "d_state": 4, "context_length": 16, "prediction_length": 3},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_differentiated_twice(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, **FAMILIES[name]).double().eval()
    if model.task == "image-classification":
        x = normal(2, model.config.in_chans, model.config.img_size, model.config.img_size)
    else:
        x = normal(2, model.context_length, model.num_channels or 2).cumsum(1)
    check_against_differences(model, x, torch.zeros_like(model(x)))


def small() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return mlp(3, 4, 2, activation=nn.Tanh), (normal(7, 3).float(), normal(7, 2, seed=1).float())


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_chunks_change_nothing(operator: str) -> None:
    model, batch = small()
    whole, parts = (
        hessian_vector_product(model, batch, nn.functional.mse_loss, operator=operator, chunk_size=size)
        for size in (None, 3)
    )
    v = unit(whole.num_params)
    torch.testing.assert_close(parts(v), whole(v), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-12, atol=1e-15)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-14)


def test_a_product_by_name_is_a_product() -> None:
    model, batch = small()
    model[0].weight.requires_grad_(False)
    H = hessian_vector_product(model, batch, nn.functional.mse_loss)
    step = {"2.bias": torch.tensor([1.0, -2.0])}
    flat = H.sampled.flatten(step)
    assert flat.tolist() == [*[0.0] * 24, 1.0, -2.0]
    torch.testing.assert_close(H.sampled.flatten(H.product(step)), H @ flat)
    only = hessian_vector_product(model, batch, nn.functional.mse_loss, parameters=["2.*"])
    assert only.num_params == 10 and only.sampled.names == ["2.weight", "2.bias"]
    torch.testing.assert_close(only(flat[16:]), H(flat)[16:])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_caller_may_stand_anywhere(context) -> None:
    model, batch = small()
    v = unit(26)
    expected = hessian_vector_product(model, batch, nn.functional.mse_loss)(v)
    with context():
        found = hessian_vector_product(model, batch, nn.functional.mse_loss)(v.clone())
    assert torch.equal(found, expected) and not found.requires_grad and not found.is_inference()


def test_float32_is_near() -> None:
    model, batch = small()
    narrow, wide = (
        hessian_vector_product(model, batch, nn.functional.mse_loss, dtype=dtype) for dtype in (torch.float32, DOUBLE)
    )
    found = narrow(unit(26))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wide(unit(26)), rtol=1e-4, atol=1e-6)


def test_a_loss_without_curvature() -> None:
    model, batch = small()
    for operator in ("hessian", "ggn"):
        H = hessian_vector_product(model[2:], (batch[0].repeat(1, 2)[:, :4], batch[1]), _linear, operator=operator)
        assert not H(unit(10)).any() and H.gradient.any()


def _linear(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).mean()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor) -> Tensor:
        return 2 * grads[0]


def test_refusals() -> None:
    model, (x, y) = small()

    def make(net=model, batch=(x, y), loss=nn.functional.mse_loss, **options):
        return hessian_vector_product(net, batch, loss, **options)

    with pytest.raises(ShapeError, match="real scalar"):
        make(loss=nn.MSELoss(reduction="none"))
    with pytest.raises(ShapeError, match="real scalar"):
        make(loss=lambda z, t: 1.0)
    with pytest.raises(DataError, match="not finite"):
        make(batch=(x * math.nan, y))
    with pytest.raises(ConfigError, match="does not depend"):
        make(loss=lambda z, t: (z.argmax(-1) == 0).double().mean())
    with pytest.raises(ShapeError, match="one target"):
        make(batch=(x, y[1:]))
    with pytest.raises(ShapeError, match="batch must be"):
        make(batch=x)
    with pytest.raises(DataError, match="empty"):
        make(batch=(x[:0], y[:0]))
    with pytest.raises(ConfigError, match="did you mean hessian"):
        make(operator="hesian")
    with pytest.raises(ConfigError, match="float64 or float32"):
        make(dtype=torch.float16)
    with pytest.raises(ConfigError, match="no parameter matches"):
        make(parameters="3.*")
    with pytest.raises(ConfigError, match="statistics from the batch"):
        make(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)))
    with pytest.raises(ConfigError, match="no parameter"):
        make(nn.Identity())
    with pytest.raises(ConfigError, match="at least one sample"):
        make(chunk_size=0)
    with pytest.raises(ShapeError, match="flat vector"):
        make()(torch.zeros(3))
    with pytest.raises(ConfigError, match="not among"):
        make().product({"9.weight": x})
    with pytest.raises(ShapeError, match="another shape"):
        make().product({"2.bias": x})
    with pytest.raises(BackendError, match="no second derivative"):
        make(loss=lambda z, t: Once.apply(z).square().mean())(unit(26))
    with pytest.raises(ShapeError, match="one tensor"):
        make(nn.GRU(3, 2, batch_first=True), (x.unsqueeze(1), y), lambda z, t: z[0].mean(), operator="ggn")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # at its import
def test_curvlinops_agrees() -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model, (x, y) = small()
    model, x, y = model.double(), x.double(), y.double()
    theirs = curvlinops.HessianLinearOperator(
        model, nn.MSELoss(), list(model.parameters()), [(x, y)], check_deterministic=False
    )
    v = unit(26)
    torch.testing.assert_close(hessian_vector_product(model, (x, y), nn.MSELoss())(v), theirs @ v)
