"""Observers: scales by their definitions, the least squared error, and what no scale is made of."""

import numpy as np
import pytest
import torch

from madzoo.errors import ConfigError, DataError
from madzoo.quantization.grid import Grid, round_to_grid
from madzoo.quantization.observers import OBSERVERS, find_scale, first_scale
from madzoo.quantization.packed_state import pack_state, unpack_state
from madzoo.quantization.quantized import quantize_tensor

GRIDS = [
    *(Grid(bits=bits) for bits in (1, 2, 3, 4, 8)),
    *(Grid(bits=bits, symmetric=False) for bits in (1, 2, 4)),
    Grid(bits=2, kind="ternary"),
    Grid(bits=4, kind="power_of_two"),
    Grid(bits=3, axis=None),
    Grid(bits=3, axis=1, group_size=5),
]


def heavy_tailed(*shape, seed=0):
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal * normal.abs()


def errors(w, grid, observer):
    scale, zero = find_scale(w, grid, observer=observer)
    return (round_to_grid(w, grid, scale, zero) - w).square()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_least_squared_error_is_never_above_that_of_the_range(grid, seed) -> None:
    w = heavy_tailed(6, 33, seed=seed)
    least, whole = errors(w, grid, "mse"), errors(w, grid, "min_max")
    assert least.sum() <= whole.sum()
    if grid.axis == 0:
        assert (least.sum(1) <= whole.sum(1)).all()


def test_the_search_finds_the_best_of_its_candidates() -> None:
    w, grid = heavy_tailed(1, 60), Grid(bits=3)
    reach = float(w.abs().max()) / 3
    candidates = [reach * (1 - 0.8 * k / 79) for k in range(80)]
    losses = [float(((w / s).round().clamp(-3, 3) * s - w).square().sum()) for s in candidates]
    best = int(np.argmin(losses))
    assert 0 < best < 79
    assert float(find_scale(w, grid, observer="mse")[0]) == pytest.approx(candidates[best], rel=1e-12)


def test_the_best_scale_of_one_bit_is_the_mean_size() -> None:
    w = torch.tensor([[1.0, -2.0, 6.0], [0.0, 0.0, 0.0]])
    assert find_scale(w, Grid(bits=1), observer="mse")[0].tolist() == [[3.0], [torch.finfo(torch.float32).tiny]]


def test_the_percentile_is_numpys() -> None:
    w = heavy_tailed(3, 2500)
    scale, _ = find_scale(w, Grid(bits=4), observer="percentile")
    np.testing.assert_allclose(scale[:, 0], np.quantile(np.abs(w.numpy()), 0.999, axis=1) / 7, rtol=1e-12)
    assert ((w.abs() > 7 * scale).sum(1) == 3).all()  # 0.1 % of 2500, rounded up
    scale, zero = find_scale(w, Grid(bits=4, symmetric=False), observer="percentile")
    assert zero is not None
    low, high = np.quantile(w.numpy(), [0.001, 0.999], axis=1)
    np.testing.assert_allclose(scale[:, 0], (high - low) / 15, rtol=1e-12)
    np.testing.assert_array_equal(zero[:, 0], np.rint(-low / scale[:, 0].numpy()))


def test_a_row_that_is_nearly_all_zero_keeps_its_range() -> None:
    w = torch.zeros(1, 4000)
    w[0, 0], w[0, 1] = 6.0, -3.0
    assert find_scale(w, Grid(bits=3), observer="percentile")[0].item() == 2.0
    scale, zero = find_scale(w, Grid(bits=2, symmetric=False), observer="percentile")
    assert zero is not None and (scale.item(), zero.item()) == (3.0, 1.0)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("grid", [*GRIDS[:10]], ids=str)
def test_zero_rows_and_small_numbers_stay_finite(grid, observer) -> None:
    w = torch.tensor([[0.0, 0.0, 0.0], [1e-45, -1e-45, 0.0], [1e30, -1e30, 1.0]])
    found = quantize_tensor(w, grid, observer=observer).dequantize()
    assert found.isfinite().all()
    if grid.bits > 1 or not grid.symmetric:
        assert (found[0] == 0).all()


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_one_scale_per_row_of_the_grid(grid, observer) -> None:
    w = heavy_tailed(4, 12)
    rows = {0: 4, None: 1, 1: 12}[grid.axis]
    scale, zero = find_scale(w, grid, observer=observer)
    assert scale.shape == (rows, 1) and scale.dtype == torch.float64 and (scale > 0).all()
    assert (zero is None) == grid.symmetric
    if zero is not None:
        assert torch.equal(zero, zero.round()) and zero.min() >= 0 and zero.max() <= grid.highest


@pytest.mark.parametrize("observer", OBSERVERS)
def test_zero_stays_a_level_of_affine_grids(observer) -> None:
    for w in (torch.tensor([[2.0, 3.0, 5.0]]), torch.tensor([[-2.0, -3.0, -5.0]]), heavy_tailed(1, 9)):
        grid = Grid(bits=3, symmetric=False)
        scale, zero = find_scale(w, grid, observer=observer)
        assert round_to_grid(torch.zeros(1, 1), grid, scale, zero).item() == 0


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("shape", [(0,), (5, 0), (0, 7)])
def test_empty_tensors(shape, observer) -> None:
    for grid in (Grid(bits=3), Grid(bits=3, symmetric=False, axis=None), Grid(bits=3, group_size=2)):
        assert quantize_tensor(torch.zeros(shape), grid, observer=observer).dequantize().shape == shape


def test_half_precision_is_observed_in_single() -> None:
    w = torch.tensor([[0.1, -0.7]], dtype=torch.bfloat16)
    scale, _ = find_scale(w, Grid(bits=8))
    assert scale.dtype == torch.float32 and scale.item() == np.float32(float(w[0, 1].abs())) / np.float32(127)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_number_no_scale(bad) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        find_scale(torch.tensor([1.0, bad]), Grid(bits=4))


def test_a_range_that_overflows_is_refused() -> None:
    with pytest.raises(DataError, match="overflows"):
        find_scale(torch.tensor([[3e38, -3e38]]), Grid(bits=4, symmetric=False))


def test_an_unknown_observer_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="min_max"):
        find_scale(torch.ones(2), Grid(bits=4), observer="minmax")


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_row_of_zeros_stays_as_near_to_zero_as_one_bit_can_be(observer, dtype) -> None:
    w = torch.tensor([[0.0, 0.0, 0.0], [2.0, -2.0, 2.0]], dtype=dtype)
    rounded = quantize_tensor(w, Grid(bits=1), observer=observer)
    assert torch.equal(rounded.dequantize()[1], w[1])
    assert rounded.dequantize()[0].double().abs().max() < 1.2e-38
    stored, manifest = pack_state({"w": rounded.dequantize()}, {"w": rounded}, method="rtn", bits=1)
    assert torch.equal(unpack_state(stored, manifest)["w"], rounded.dequantize())


def test_percentiles_are_those_of_torch_and_have_no_largest_row() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        w = torch.randn(3, 4099, dtype=dtype)
        found = find_scale(w, Grid(bits=4), observer="percentile")[0] * 7
        assert torch.equal(found, w.abs().nanquantile(0.999, dim=1, keepdim=True) / 7 * 7)
    short = find_scale(w[:, :10], Grid(bits=4, group_size=4), observer="percentile")[0]  # last groups are filled up
    exact = w[:, :10].abs()
    ends = [exact[row, at : at + 4].quantile(0.999) / 7 for row in range(3) for at in (0, 4, 8)]
    assert torch.allclose(short[:, 0], torch.stack(ends), rtol=1e-12)
    many = torch.ones(1, 2**24 + 8)
    assert find_scale(many, Grid(bits=4), observer="percentile")[0].item() == pytest.approx(1 / 7)


def test_training_starts_at_a_scale_that_rows_of_zeros_can_grow_in() -> None:
    w = torch.tensor([[0.3, -0.6], [0.0, 0.0], [0.9, 0.0], [1.2, 0.0]])
    assert first_scale(w, Grid(bits=3))[0][:, 0].tolist() == pytest.approx([0.2, 0.3, 0.3, 0.4])
    assert first_scale(torch.zeros(2, 4), Grid(bits=3))[0][:, 0].tolist() == pytest.approx([1 / 6, 1 / 6])
    scale, zero = first_scale(torch.zeros(1, 4), Grid(bits=2, symmetric=False))
    assert zero is not None and (scale.item(), zero.item()) == (0.25, 1.0)
    assert first_scale(torch.zeros(1, 4), Grid(bits=3, kind="power_of_two"))[0].item() == 0.5
    full, settings = torch.randn(3, 5), {"grid": Grid(bits=4), "observer": "mse"}
    assert torch.equal(first_scale(full, **settings)[0], find_scale(full, **settings)[0])
