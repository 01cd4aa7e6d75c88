"""Flatness against dense eigenvalues and traces, noise against brute force, and the tie to the local dimension."""

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import BackendError, ConfigError, DataError, ShapeError
from madzoo.geometry import Curvature, curvature, gradient_noise_scale, hessian_vector_product, local_dimension
from madzoo.geometry.hutchinson import block_traces
from madzoo.geometry.jacobian import jacobian_rows
from madzoo.geometry.lanczos import extreme_eigenpairs
from madzoo.layers import Mamba
from tests.geometry.cases import CASES, mlp
from tests.geometry.test_hessian import DOUBLE, dense_columns, normal, small

mse = nn.functional.mse_loss


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    Q = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    return Q @ eigenvalues.diag() @ Q.T


def search(A: Tensor, **options):
    return extreme_eigenpairs(lambda v: A @ v, len(A), **{"seed": 0, "tolerance": 1e-8} | options)


@pytest.mark.parametrize("seed", range(3))
def test_a_large_negative_end_does_not_pass_for_convergence(seed: int) -> None:
    """Beside -100 the residual of the first value near 0 is within one per cent, and says nothing of the largest."""
    spectrum = torch.cat([torch.linspace(-100, -1, 20), torch.zeros(277), torch.tensor([0.5, 1.0, 2.0])]).to(DOUBLE)
    found = extreme_eigenpairs(lambda v: spectrum * v, len(spectrum), seed=seed, tolerance=1e-2)
    assert found.converged
    assert found.largest.value == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("spectrum", "budget"),
    [
        (torch.linspace(-1, 1, 40, dtype=DOUBLE), 40),
        (torch.cat([torch.linspace(0, 1, 299, dtype=DOUBLE), torch.tensor([1.01], dtype=DOUBLE)]), 400),  # restarts
        (torch.cat([torch.zeros(490, dtype=DOUBLE), 10.0 ** torch.arange(-9, 1, dtype=DOUBLE)]), 40),
        (torch.cat([-torch.ones(50, dtype=DOUBLE), torch.full((50,), 3.0, dtype=DOUBLE)]), 4),  # two distinct values
        (torch.tensor([-2.0], dtype=DOUBLE), 1),
    ],
)
def test_both_ends_are_the_dense_ones(spectrum: Tensor, budget: int) -> None:
    A = symmetric(spectrum)
    found = search(A)
    assert found.converged and found.products <= budget + 2
    assert found.largest.value == pytest.approx(float(spectrum.max()), rel=1e-12, abs=1e-12)
    assert found.largest.residual <= 1e-7 * float(spectrum.abs().max())
    for pair in (found.largest, found.smallest):
        assert pair.vector.norm() == pytest.approx(1)
        assert pair.residual == pytest.approx(float((A @ pair.vector - pair.value * pair.vector).norm()), abs=1e-13)
        assert (spectrum - pair.value).abs().min() <= pair.residual + 1e-12
    assert found.asymmetry < 1e-11


def test_an_unfinished_search_says_so() -> None:
    A = symmetric(torch.linspace(0, 1, 200, dtype=DOUBLE))
    found = search(A, max_products=5)
    assert not found.converged and found.products == 7 and found.largest.residual > 1e-3
    again = search(A, max_products=5)
    assert again.largest.value == found.largest.value and torch.equal(again.largest.vector, found.largest.vector)
    assert search(A, max_products=5, seed=1).largest.value != found.largest.value
    with pytest.raises(ConfigError, match="at least 1"):
        search(A, max_products=0)


def test_the_zero_map() -> None:
    found = search(torch.zeros(70, 70, dtype=DOUBLE))
    assert (found.largest.value, found.largest.residual, found.converged) == (0.0, 0.0, True)


class HalfProduct(torch.autograd.Function):
    """The product, whose derivative by its second factor takes the first for a constant."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return b * grads[0], a.detach() * grads[0]


class WronglyDifferentiated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(normal(3)), nn.Parameter(normal(3, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return HalfProduct.apply(self.a * x, self.b * x)


def test_a_wrong_second_derivative_is_noticed() -> None:
    with pytest.raises(BackendError, match="not symmetric"):
        curvature(WronglyDifferentiated(), (normal(4, 3), normal(4, 3, seed=2)), mse, probes=1)
    A = symmetric(torch.linspace(0, 1, 9, dtype=DOUBLE))
    A[0, 1] += 1e-3
    assert 1e-5 < search(A).asymmetry < 1e-2


def test_traces_of_a_diagonal_map_are_exact() -> None:
    d = normal(9)
    whole, parts = block_traces(
        lambda v: d * v, {"a": [slice(0, 2), slice(5, 9)], "b": [slice(2, 5)]}, 9, probes=3, seed=1
    )
    assert whole.trace == pytest.approx(float(d.sum()), rel=1e-14) and whole.stderr < 1e-14
    assert parts["a"].trace == pytest.approx(float(d.sum() - d[2:5].sum()), rel=1e-14)
    assert (parts["a"].num_params, parts["b"].num_params, whole.num_params) == (6, 3, 9)
    assert block_traces(lambda v: d * v, {}, 9, probes=1, seed=1)[0].stderr is None
    with pytest.raises(ConfigError, match="at least one probe"):
        block_traces(lambda v: v, {}, 9, probes=0, seed=1)


def test_block_traces_lie_within_their_errors_and_the_errors_are_right() -> None:
    A = symmetric(torch.linspace(-1, 3, 30, dtype=DOUBLE))
    blocks = {"low": [slice(0, 10)], "high": [slice(10, 30)]}
    whole, parts = block_traces(lambda v: A @ v, blocks, 30, probes=2000, seed=0)
    off = A - A.diag().diag()
    assert abs(whole.trace - float(A.trace())) < 4 * whole.stderr
    assert whole.stderr == pytest.approx(float(2 * off.square().sum() / 2000) ** 0.5, rel=0.1)
    for name, place in (("low", slice(0, 10)), ("high", slice(10, 30))):
        assert abs(parts[name].trace - float(A[place, place].trace())) < 4 * parts[name].stderr
        variance = off[place].square().sum() + off[place, place].square().sum()
        assert parts[name].stderr == pytest.approx(float(variance / 2000) ** 0.5, rel=0.1)
    assert sum(part.trace for part in parts.values()) == pytest.approx(whole.trace)


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
def test_the_record_against_dense_linear_algebra(operator: str) -> None:
    model, batch = small()
    A = dense_columns(hessian_vector_product(model, batch, mse, operator=operator))
    found = curvature(model, batch, mse, operator=operator, probes=300, seed=3)
    values = torch.linalg.eigvalsh(A)
    assert found.lambda_max == pytest.approx(float(values[-1]), rel=1e-12)
    assert found.lambda_min == pytest.approx(float(values[0]), abs=found.lambda_min_residual + 1e-12)
    assert abs(found.trace - float(A.trace())) < 4 * found.trace_stderr
    start = 0
    for name, p in model.named_parameters():
        block = found.groups[name]
        exact = float(A.diag()[start : start + p.numel()].sum())
        assert abs(block.trace - exact) < 4 * block.stderr and block.num_params == p.numel()
        start += p.numel()
    assert (found.n, found.num_params, found.dtype, found.seed, found.operator) == (7, 26, "float64", 3, operator)
    assert found.loss == pytest.approx(mse(model(batch[0]), batch[1]).item(), rel=1e-6)
    assert Curvature.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert curvature(model, batch, mse, operator=operator, probes=300, seed=3) == found
    with pytest.raises(ConfigError, match="not a Curvature"):
        Curvature.from_dict({**found.to_dict(), "lambda": 1})
    with pytest.raises(ConfigError, match="not a Curvature"):
        Curvature.from_dict({})


def test_groups_by_pattern() -> None:
    model, batch = small()
    names = {"weights": "*weight", "all": ["0.*", "2.*"]}
    found = curvature(model, batch, mse, groups=names, probes=2, microbatch=None)
    assert {name: block.num_params for name, block in found.groups.items()} == {"weights": 20, "all": 26}
    assert found.groups["all"].trace == pytest.approx(found.trace)
    assert (found.noise_scale, found.gradient_variance, found.microbatch) == (None, None, None)
    single = curvature(model, (batch[0][:1], batch[1][:1]), mse, probes=1)
    assert (single.noise_scale, single.trace_stderr, single.n) == (None, None, 1)
    with pytest.raises(ConfigError, match="none of the selected"):
        curvature(model, batch, mse, parameters="0.*", groups={"head": "2.*"})


@pytest.mark.parametrize("microbatch", [1, 2, 4])
def test_noise_scale_is_the_brute_force_one(microbatch: int) -> None:
    model, _ = small()
    model = model.double()
    x, y = normal(8, 3), normal(8, 2, seed=1) + 3
    gradients = []
    for a, b in zip(x.split(microbatch), y.split(microbatch), strict=True):
        grads = torch.autograd.grad(mse(model(a), b), list(model.parameters()))
        gradients.append(torch.cat([g.flatten() for g in grads]))
    G = torch.stack(gradients)
    variance = microbatch * torch.cov(G.T).trace()
    squared = G.mean(0).square().sum() - variance / 8
    found = gradient_noise_scale(model, (x, y), mse, microbatch=microbatch)
    assert found.gradient_variance == pytest.approx(float(variance), rel=1e-12)
    assert found.squared_gradient == pytest.approx(float(squared), rel=1e-12)
    assert found.value == pytest.approx(float(variance / squared), rel=1e-12)
    record = curvature(model, (x, y), mse, probes=1, microbatch=microbatch)
    assert (record.noise_scale, record.microbatch) == (found.value, microbatch)


def test_noise_scale_is_unbiased() -> None:
    torch.manual_seed(0)
    draws = [
        gradient_noise_scale(nn.Linear(1, 1).double(), (torch.ones(4, 1), normal(4, 1, seed=seed)), _slope)
        for seed in range(400)
    ]
    # The gradient by weight and bias is (t, t), t standard normal: tr Sigma = 2, |g|^2 = 0, and half of the estimates
    # of |g|^2 are negative.
    mean = sum(draw.squared_gradient for draw in draws) / 400
    assert abs(mean) < 4 * (2 * (2 / 4) ** 2 / 400 * 4 / 3) ** 0.5
    assert sum(draw.gradient_variance for draw in draws) / 400 == pytest.approx(2, rel=0.2)
    assert any(draw.value is None for draw in draws) and any(draw.value for draw in draws)
    assert all((draw.value is None) == (draw.squared_gradient <= 0) for draw in draws)


def _slope(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).mean()


def test_noise_scale_refusals() -> None:
    model, batch = small()
    with pytest.raises(ConfigError, match="do not split"):
        gradient_noise_scale(model, batch, mse, microbatch=2)
    with pytest.raises(ConfigError, match="do not split"):
        gradient_noise_scale(model, batch, mse, microbatch=7)
    with pytest.raises(ConfigError, match="do not split"):
        curvature(model, batch, mse, microbatch=0)
    with pytest.raises(ConfigError, match="not the mean"):
        curvature(model, batch, nn.MSELoss(reduction="sum"))
    with pytest.raises(ConfigError, match="not the mean"):
        curvature(CentredOutputs(), batch, mse)
    with pytest.raises(DataError, match="not finite"):
        curvature(model, (batch[0] / 0, batch[1]), mse)
    with pytest.raises(ShapeError, match="real scalar"):
        curvature(model, batch, nn.MSELoss(reduction="none"))


class CentredOutputs(nn.Module):
    """Couples samples without any norm's class giving it away."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y - y.mean(0)


def test_the_caller_keeps_model_and_random_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[0].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        found = curvature(model, (normal(6, 3).float(), torch.arange(6) % 2), nn.functional.cross_entropy, probes=2)
    assert found.num_params == 34 and found.converged  # a frozen weight counts
    assert model.training and not model[0].weight.requires_grad and model[3].weight.grad is None
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().flatten(1).sum(1).mean()


def generic_mamba() -> nn.Module:
    """Builds a Mamba block whose smallest true direction is 1e-4 of the largest: its square is well above round-off."""
    block = Mamba(2, d_state=2, d_conv=2, expand=1, dt_rank=1, dt_min=0.5, dt_max=2.0)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return block


VALLEYS = {
    "relu": (lambda: mlp(3, 5, 2), (100, 3)),
    "gelu": (lambda: mlp(4, 5, 3, activation=nn.GELU), (60, 4)),
    "mamba": (generic_mamba, (10, 12, 2)),
    "s4d": (CASES["s4d_2_channels_3_pairs"].build, (6, 2, 24)),
}


@pytest.mark.parametrize("name", VALLEYS)
def test_at_zero_residual_the_valley_is_what_the_local_dimension_leaves(name: str) -> None:
    build, shape = VALLEYS[name]
    torch.manual_seed(1)
    model, x = build().double(), normal(*shape)
    with torch.no_grad():
        targets = model(x)
    dimension = local_dimension(model, x)
    H = hessian_vector_product(model, (x, targets), half_squares)
    A = dense_columns(H)
    J = torch.stack(list(jacobian_rows(model, x)))
    torch.testing.assert_close(A, J.T @ J / len(x), rtol=1e-8, atol=1e-13 * float(A.abs().max()))
    values = torch.linalg.eigvalsh(A)
    flat = int((values < 1e-14 * H.num_params * values[-1]).sum())
    assert flat == H.num_params - dimension.rank
    assert dimension.rank > 0 and not dimension.row_limited
    found = curvature(model, (x, targets), half_squares, probes=2, tolerance=1e-9)
    assert found.lambda_max == pytest.approx(dimension.sigma_max**2 / len(x), rel=1e-10)
    assert abs(found.lambda_min) <= found.lambda_min_residual + 1e-12 * found.lambda_max
    assert found.loss < 1e-25 and found.gradient_norm < 1e-12
