"""Objectives with known valleys: derivatives, tangent spaces, conserved quantities, flattest points, distances."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.landscape import (
    DiagonalSSM,
    LeastSquares,
    LinearNetwork,
    Objective,
    ScalarProduct,
    draw_least_squares,
    draw_linear_network,
    draw_relu_network,
    fit_own_answers,
)
from madzoo.landscape.hyperbola import best_assignment, nearest_on_hyperbola

OBJECTIVES: dict[str, Objective] = {
    "product of 2": ScalarProduct(),
    "product of 4": ScalarProduct(factors=4),
    "least squares": draw_least_squares(3, 7, seed=0),
    "two matrices": draw_linear_network((3, 4, 2), seed=0),
    "three matrices": draw_linear_network((2, 3, 3, 2), seed=1),
    "relu": draw_relu_network(3, inputs=2, samples=16, seed=0),
    "ssm": DiagonalSSM(rates=(0.1, 0.7), weights=(1.0, -0.5), length=12),
}
EVERY = pytest.mark.parametrize("f", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def points_near(f: Objective, *, count: int = 3, size: float = 0.05, spread: float = 1.5) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    noise = torch.randn(count, f.num_params, generator=draw, dtype=torch.float64)
    return f.valley_point(spread) + size * noise


@EVERY
def test_the_valley_lies_at_zero_and_its_dimension_and_tangent_are_those_of_the_jacobian(f: Objective) -> None:
    for spread in (1.0, 1.3, 2.0):
        point = f.valley_point(spread)
        assert f.loss(point) < 1e-24 and f.distance(point) < 1e-10
        J, T = f.jacobian(point), f.tangent(point)
        assert int(torch.linalg.matrix_rank(J)) == f.num_params - f.valley_dimension
        assert T.shape == (f.num_params, f.valley_dimension) and (J @ T).abs().max() < 1e-12
        assert torch.allclose(T.mT @ T, torch.eye(f.valley_dimension, dtype=torch.float64))
        torch.testing.assert_close(f.hessian(point), J.mT @ J, rtol=1e-10, atol=1e-10)  # no residual, no other term
        assert f.sharpness(point).item() == pytest.approx(torch.linalg.matrix_norm(J, 2).item() ** 2)


@EVERY
def test_following_the_tangent_leaves_the_valley_to_second_order_only(f: Objective) -> None:
    point = f.valley_point(1.5)
    gaps = [f.distance(point + step * f.tangent(point)[:, 0]).item() for step in (0.02, 0.01)]
    assert gaps[0] < 0.003 and (gaps[0] < 1e-10 or gaps[0] / gaps[1] == pytest.approx(4, rel=0.15))


@EVERY
def test_gradient_flow_keeps_what_is_conserved(f: Objective) -> None:
    theta = points_near(f, size=0.3)
    slopes = torch.func.vmap(torch.func.jacrev(f.conserved))(theta)
    g = f.gradient(theta)
    assert g.norm() > 0.1 and (slopes @ g.unsqueeze(-1)).abs().max() < 1e-12
    assert torch.linalg.matrix_rank(slopes[0]) > 0


@EVERY
def test_the_gradient_and_its_noisy_form_against_differences(f: Objective) -> None:
    theta, noise = points_near(f, count=1)[0], 0.3
    r, pull = f.pull(theta)

    def noisy(t: Tensor) -> float:  # its derivative at theta is J^T (r - noise)
        return (0.5 * (f.residual(t) - noise).square().sum()).item()

    units = 1e-6 * torch.eye(f.num_params, dtype=torch.float64)
    slopes = torch.tensor([(noisy(theta + u) - noisy(theta - u)) / 2e-6 for u in units], dtype=torch.float64)
    torch.testing.assert_close(pull(r - noise), slopes, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(f.gradient(theta), pull(r))


@EVERY
def test_leading_axes_are_a_loop_and_vmap_works(f: Objective) -> None:
    theta = points_near(f, count=4).view(2, 2, -1)
    flat = theta.flatten(0, 1)
    for name in ("residual", "loss", "gradient", "hessian", "sharpness", "distance", "conserved"):
        function = getattr(f, name)
        loop = torch.stack([function(point) for point in flat])
        torch.testing.assert_close(function(theta).flatten(0, 1), loop, rtol=1e-9, atol=1e-12)
    loop = torch.stack([f.loss(point) for point in flat])
    torch.testing.assert_close(torch.func.vmap(f.loss)(flat), loop)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f.loss))(flat), f.gradient(flat))


@EVERY
def test_the_flattest_point_is_the_flattest(f: Objective) -> None:
    """Valley points near it, found by projecting moves along its tangent, are not flatter."""
    best, draw = f.flattest_point(), torch.Generator().manual_seed(0)
    moves = torch.randn(200, f.valley_dimension, generator=draw, dtype=torch.float64) @ f.tangent(best).mT
    for size in (0.3, 0.03):
        around = f.project(best + size * moves / moves.norm(dim=-1, keepdim=True))
        around = around[around.isfinite().all(-1)]
        assert len(around) > 150 and f.loss(around).max() < 1e-16
        assert (f.sharpness(around) > f.sharpness(best) - 1e-4 * f.sharpness(best)).all()
    assert f.sharpness(f.valley_point(2.5)) >= f.sharpness(best) - 1e-12


def test_known_sharpness() -> None:
    assert ScalarProduct().sharpness(torch.tensor([4.0, 0.25]).double()).item() == pytest.approx(16.0625)
    for k in (2, 3, 5):
        assert ScalarProduct(factors=k).sharpness(torch.ones(k).double()).item() == pytest.approx(k)
    two, three = OBJECTIVES["two matrices"], OBJECTIVES["three matrices"]  # largest singular value of both targets: 1
    assert two.sharpness(two.flattest_point()).item() == pytest.approx(2)
    assert three.sharpness(three.flattest_point()).item() == pytest.approx(3)
    assert isinstance(two, LinearNetwork)
    A, B = reversed(two.layers(two.valley_point(1.7)))
    expected = torch.linalg.matrix_norm(A, 2) ** 2 + torch.linalg.matrix_norm(B, 2) ** 2
    assert two.sharpness(two.valley_point(1.7)).item() == pytest.approx(expected.item())


def test_matrix_residual_and_conserved_by_numpy() -> None:
    f = draw_linear_network((3, 4, 2), seed=0)
    theta = points_near(f, count=1)[0]
    B, A = theta[:12].view(4, 3).numpy(), theta[12:].view(2, 4).numpy()
    np.testing.assert_allclose(f.residual(theta), (A @ B - f.target.numpy()).ravel())
    balance = A.T @ A - B @ B.T
    np.testing.assert_allclose(f.conserved(theta), balance[np.triu_indices(4)])


def test_distance_to_the_hyperbola_against_a_fine_grid() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = 3 * torch.randn(2, 40, generator=draw, dtype=torch.float64)
    c = torch.randn(40, generator=draw, dtype=torch.float64)
    x, y = nearest_on_hyperbola(a, b, c)
    assert torch.allclose(x * y, c)
    t = torch.logspace(-4, 4, 400_001, dtype=torch.float64)
    for i in range(40):
        sides = [((s * t - a[i]) ** 2 + (c[i] / (s * t) - b[i]) ** 2).min() for s in (1, -1)]
        found = ((x[i] - a[i]) ** 2 + (y[i] - b[i]) ** 2).item()
        assert found == pytest.approx(min(sides).item(), rel=1e-6, abs=1e-7)
        right = nearest_on_hyperbola(a[i], b[i], c[i], positive=True)
        assert right[0] > 0
        assert ((right[0] - a[i]) ** 2 + (right[1] - b[i]) ** 2).item() == pytest.approx(sides[0].item(), rel=1e-6)


def test_two_branches_of_the_product() -> None:
    f = ScalarProduct()
    assert f.distance(torch.tensor([-1.0, -1.0]).double()).item() == pytest.approx(0)
    assert f.distance(torch.zeros(2).double()).item() == pytest.approx(math.sqrt(2))
    assert f.distance(torch.tensor([2.0, 2.0]).double()).item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("name", ["product of 2", "least squares", "relu", "ssm"])
def test_closed_forms_agree_with_newton_near_the_valley(name: str) -> None:
    f = OBJECTIVES[name]
    theta = points_near(f)
    torch.testing.assert_close(f.nearest(theta), f.project(theta), rtol=1e-8, atol=1e-8)
    assert f.distance_is_exact


def test_modes_may_change_places() -> None:
    f = DiagonalSSM(rates=(0.1, 0.7, 2.0), weights=(1.0, -0.5, 2.0), length=12)
    order = torch.tensor([2, 0, 1])
    moved = torch.cat([part[order] for part in f.valley_point(1.2).chunk(3)])
    assert f.loss(moved) < 1e-24 and f.distance(moved) < 1e-10
    costs = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 9.0], [4.0, 6.0, 1.0]])
    assert best_assignment(costs).tolist() == [1, 0, 2]


def test_the_kernel_by_hand() -> None:
    f = DiagonalSSM(rates=(0.5,), weights=(2.0,), length=3)
    assert f.kernel(f.valley_point()).tolist() == pytest.approx([2 * math.exp(-0.5 * t) for t in range(3)])
    theta = torch.tensor([math.log(0.5), 3.0, 1.0], dtype=torch.float64)
    assert f.residual(theta).tolist() == pytest.approx([math.exp(-0.5 * t) for t in range(3)])
    assert f.conserved(theta).tolist() == pytest.approx([8.0])


def test_projection_says_when_it_finds_nothing() -> None:
    f = ScalarProduct(factors=3)
    assert f.distance(torch.zeros(3, dtype=torch.float64)).isinf() or f.distance(torch.zeros(3).double()) >= 1


def test_a_module_on_its_own_answers() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(20, 2)
    f = fit_own_answers(net, inputs)
    assert f.loss(f.point) < 1e-30 and (f.num_params, f.rank, f.valley_dimension) == (13, 13, 0)
    few = fit_own_answers(net, inputs[:4])
    assert (few.rank, few.valley_dimension) == (4, 9)
    near = few.point + 0.01 * torch.randn(2, 13, dtype=torch.float64)
    assert few.loss(few.nearest(near)).max() < 1e-18 and (few.distance(near) < 0.05).all()
    r = few.residual(near[0])
    values = dict(zip([n for n, _ in net.named_parameters()], near[0].split([6, 3, 3, 1]), strict=True))
    values = {n: v.view_as(p) for (n, v), p in zip(values.items(), net.parameters(), strict=True)}
    answers = torch.func.functional_call(net, values, (inputs[:4].double(),))
    torch.testing.assert_close(r, ((answers - net(inputs[:4].double())) / 2).flatten().detach())
    for refused in (lambda: few.valley_point(2.0), few.flattest_point):
        with pytest.raises(ConfigError):
            refused()


def test_refusals() -> None:
    X = torch.ones(2, 3, dtype=torch.float64)
    for wrong in (
        lambda: ScalarProduct(factors=1),
        lambda: LeastSquares(X=X, y=torch.ones(2).double()),
        lambda: draw_linear_network((3, 1, 2), seed=0),
        lambda: DiagonalSSM(rates=(0.1, 0.1), weights=(1.0, 1.0), length=9),
        lambda: DiagonalSSM(rates=(0.1,), weights=(0.0,), length=9),
        lambda: draw_relu_network(5, inputs=2, samples=4, seed=0),
    ):
        with pytest.raises(ConfigError):
            wrong()
