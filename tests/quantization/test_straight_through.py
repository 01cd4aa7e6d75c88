"""The straight-through family: rounded forward to the bit, and the gradients of the papers, computed by hand."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid, round_to_grid
from madzoo.quantization.observers import find_scale
from madzoo.quantization.straight_through import ESTIMATORS, find_estimator, outermost

GRIDS = [
    Grid(bits=1),
    Grid(bits=3),
    Grid(bits=4, symmetric=False),
    Grid(bits=2, kind="ternary", axis=None),
    Grid(bits=4, kind="power_of_two", group_size=5),
]
ROUNDING = [name for name, estimator in ESTIMATORS.items() if estimator.rounds]


def gradients(name, w, grid, scale, upstream=None, zero=None):
    """Returns the gradients of latents and scale for an upstream gradient, ones by default."""
    latent = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    value = find_estimator(name).apply(latent, grid, step, zero)
    value.backward(torch.ones_like(value) if upstream is None else torch.tensor(upstream, dtype=torch.float64))
    return latent.grad.tolist(), None if step.grad is None else step.grad


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forward_is_rounding_to_the_bit(name, grid, dtype) -> None:
    w = torch.randn(4, 11, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 3
    scale, zero = find_scale(w / 2, grid)  # half the range: some elements are clipped
    value = find_estimator(name).apply(w.requires_grad_(), grid, scale.requires_grad_(), zero)
    assert value.dtype == dtype and torch.equal(value, round_to_grid(w.detach(), grid, scale.detach(), zero))


def test_plain_passes_every_gradient_on() -> None:
    grid = Grid(bits=2, axis=None)  # levels -0.5, 0, 0.5
    found, step = gradients("ste", [0.1, -0.4, 7.0, -7.0], grid, [[0.5]], [1.0, -2.0, 3.0, 4.0])
    assert found == [1.0, -2.0, 3.0, 4.0] and step is None


def test_clipped_stops_beyond_the_outermost_level() -> None:
    grid = Grid(bits=2, axis=None)  # levels -0.5, 0, 0.5; on the outermost itself the gradient passes
    latents = [0.1, -0.5, 0.5, 0.5001, -7.0]
    found, _ = gradients("clipped_ste", latents, grid, [[0.5]], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == [1.0, 2.0, 3.0, 0.0, 0.0]


def test_clipped_knows_the_ends_of_affine_and_binary_grids() -> None:
    affine = Grid(bits=2, symmetric=False, axis=None)  # zero point 1: levels -1, 0, 1, 2
    zero = torch.ones(1, 1, dtype=torch.float64)
    assert gradients("clipped_ste", [-1.1, -1.0, 2.0, 2.1], affine, [[1.0]], zero=zero)[0] == [0.0, 1.0, 1.0, 0.0]
    assert gradients("clipped_ste", [-1.1, 0.0, 1.0, 2.1], Grid(bits=1, axis=None), [[1.0]])[0] == [0.0, 1.0, 1.0, 0.0]
    powers = Grid(bits=4, kind="power_of_two", axis=None)  # the largest power is the scale itself
    assert gradients("clipped_ste", [0.01, 2.0, 2.1], powers, [[2.0]])[0] == [1.0, 1.0, 0.0]


def test_lsq_of_three_bits_by_hand() -> None:
    # s = 0.5, q = 3, N = 5. x = w / s = 0.4, -1.6, 3, 4, -5: rounded 0, -2, 3, 3, -3.
    # Inside (strictly): round(x) - x = -0.4, -0.4; on the end and beyond: 3, 3, -3. Times upstream 1, 2, 3, 4, 5:
    # -0.4 - 0.8 + 9 + 12 - 15 = 4.8, times 1 / sqrt(5 * 3).
    grid, upstream = Grid(bits=3, axis=None), [1.0, 2.0, 3.0, 4.0, 5.0]
    found, step = gradients("lsq", [0.2, -0.8, 1.5, 2.0, -2.5], grid, [[0.5]], upstream)
    assert found == [1.0, 2.0, 0.0, 0.0, 0.0]
    assert step.item() == pytest.approx(4.8 / 15**0.5, rel=1e-12)


def test_lsq_has_one_step_per_row_and_counts_its_weights() -> None:
    # Groups of 2 in rows of 3: the last group of each row holds one weight. q = 1.
    grid = Grid(bits=2, group_size=2)
    w, scale = [[0.3, 0.6, 0.2], [2.0, -0.1, -9.0]], [[1.0]] * 4
    found, step = gradients("lsq", w, grid, scale)
    assert found == [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    expected = [(-0.3 + 0.4) / 2**0.5, -0.2, (1 + 0.1) / 2**0.5, -1.0]
    assert step.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_lsq_of_affine_levels() -> None:
    # Zero point 1, s = 0.5: levels -1, 0, 1, 2 in units of s. x = -1.4, 0.8, 5: ends give -1 and 2, inside 1 - 0.8.
    grid, zero = Grid(bits=2, symmetric=False, axis=None), torch.ones(1, 1, dtype=torch.float64)
    found, step = gradients("lsq", [-0.7, 0.4, 2.5], grid, [[0.5]], zero=zero)
    assert found == [0.0, 1.0, 0.0]
    assert step.item() == pytest.approx((-1 + 0.2 + 2) / (3 * 2) ** 0.5, rel=1e-12)


def test_lsq_of_powers_of_two_and_of_one_bit() -> None:
    # Levels 0, 1/4, 1/2, 1 of s = 2. x = 0.3, 0.9, 1.5: rounded 0.25, 1, 1 (beyond). u = 1, N = 3.
    powers = Grid(bits=3, kind="power_of_two", axis=None)
    found, step = gradients("lsq", [0.6, 1.8, 3.0], powers, [[2.0]])
    assert found == [1.0, 1.0, 0.0]
    assert step.item() == pytest.approx((-0.05 + 0.1 + 1) / 3**0.5, rel=1e-12)
    found, step = gradients("lsq", [0.25, -3.0], Grid(bits=1, axis=None), [[0.5]])  # x = 0.5, -6: signs 1, -1
    assert found == [1.0, 0.0]
    assert step.item() == pytest.approx((0.5 - 1) / 2**0.5, rel=1e-12)


def test_lsqs_step_gradient_is_the_slope_between_changes_of_codes() -> None:
    # Where nothing is inside, the value is s times an end: the true derivative, without the paper's 1 / sqrt(N q).
    w = torch.tensor([5.0, -6.0, 7.0], dtype=torch.float64)
    _, step = gradients("lsq", w.tolist(), Grid(bits=3, axis=None), [[0.5]], [1.0, 10.0, 100.0])
    assert step.item() * 9**0.5 == pytest.approx(3 * (1 - 10 + 100), rel=1e-12)


def test_prox_quant_shows_the_latents_and_their_own_gradient() -> None:
    found, step = gradients("prox_quant", [0.1, 9.0], Grid(bits=2, axis=None), [[0.5]], [1.0, 2.0])
    assert found == [1.0, 2.0] and step is None
    w = torch.randn(3)
    assert torch.equal(ESTIMATORS["prox_quant"].apply(w, Grid(bits=2, axis=None), torch.ones(1, 1), None), w)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", ROUNDING)
def test_transforms_see_the_same_gradient(name, grid) -> None:
    w = torch.randn(4, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scale, zero = find_scale(w / 2, grid)
    target = torch.randn_like(w)

    def loss(w, scale):
        return (find_estimator(name).apply(w, grid, scale, zero) - target).square().sum()

    by_transform = torch.func.grad(loss, argnums=(0, 1))(w, scale)
    w.requires_grad_(), scale.requires_grad_()
    by_graph = torch.autograd.grad(loss(w, scale), (w, scale), allow_unused=True)
    for found, expected in zip(by_transform, by_graph, strict=True):
        assert torch.equal(found, torch.zeros_like(found) if expected is None else expected)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shape", [(), (0,), (5, 0)])
def test_scalars_and_empty_tensors(name, shape) -> None:
    for grid in GRIDS:
        w = torch.ones(shape, requires_grad=True)
        scale, zero = find_scale(w, grid)
        find_estimator(name).apply(w, grid, scale.requires_grad_(), zero).sum().backward()
        assert w.grad is not None and w.grad.shape == w.shape and w.grad.isfinite().all()


def test_the_outermost_levels() -> None:
    symmetric = [Grid(bits=1), Grid(bits=8), Grid(bits=5, kind="power_of_two"), Grid(bits=2, kind="ternary")]
    assert [outermost(grid) for grid in symmetric] == [(-1, 1), (-127, 127), (-1, 1), (-1, 1)]
    low, high = outermost(Grid(bits=3, symmetric=False), torch.tensor([[2.0], [0.0]]))
    assert low.tolist() == [[-2.0], [0.0]] and high.tolist() == [[5.0], [7.0]]


def test_an_unknown_estimator_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="clipped_ste"):
        find_estimator("cliped_ste")
