"""Grids: bit for bit what a plain NumPy statement of the formulas says, in every layout."""

import itertools

import numpy as np
import pytest
import torch

from madzoo.errors import ConfigError, ShapeError
from madzoo.quantization.grid import Grid, from_codes, from_rows, round_to_grid, spread, to_codes, to_rows
from madzoo.quantization.observers import find_scale
from madzoo.quantization.quantized import quantize_tensor

SHAPES = [(), (1,), (7,), (0,), (0, 7), (5, 0), (1, 1), (13, 7), (3, 5, 7), (6, 1, 3, 3)]
LEVELS = [
    *({"bits": bits} for bits in range(1, 9)),
    *({"bits": bits, "symmetric": False} for bits in range(1, 9)),
    {"bits": 2, "kind": "ternary"},
    *({"bits": bits, "kind": "power_of_two"} for bits in range(2, 9)),
]


def groups_of(shape, axis, size):
    """Yields the flat positions of every set of elements that shares a scale, in order."""
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    if axis is None or not shape:
        slices = [positions.reshape(-1)]
    else:
        slices = [np.take(positions, i, axis).reshape(-1) for i in range(shape[axis])]
    for flat in slices:
        yield from ([flat] if size is None else [flat[i : i + size] for i in range(0, len(flat), size)])


def numpy_codes(x, grid):
    """Codes of values in units of the scale; of affine grids before the zero point."""
    q = max(2 ** (grid.bits - 1) - 1, 1)
    if grid.kind == "power_of_two":
        powers = np.array([0.0] + [2.0 ** (c - q) for c in range(1, q + 1)], dtype=x.dtype)
        nearest = [max(range(q + 1), key=lambda c: (-abs(powers[c] - abs(v)), c)) for v in x]
        return np.array(nearest, dtype=np.int64) * np.sign(x).astype(np.int64)
    if grid.bits == 1 and grid.symmetric:
        return np.where(x >= 0, 1, -1)
    return np.rint(x).astype(np.int64)


def numpy_statement(w, grid):
    """Codes and values at the scale of the largest element."""
    flat, codes, values = w.reshape(-1), np.zeros(w.size, np.int64), np.zeros(w.size, w.dtype)
    q = 2**grid.bits - 1 if not grid.symmetric else max(2 ** (grid.bits - 1) - 1, 1)
    for where in groups_of(w.shape, grid.axis, grid.group_size):
        part = flat[where]
        if not part.size:
            continue
        low, high = min(part.min(), 0), max(part.max(), 0)
        if not grid.symmetric:
            s = w.dtype.type((high - low) / w.dtype.type(q)) or w.dtype.type(1)
            zero = int(np.clip(np.rint(-low / s), 0, q))
            codes[where] = np.clip(numpy_codes(part / s, grid) + zero, 0, q)
            values[where] = (codes[where] - zero).astype(w.dtype) * s
            continue
        reach = np.abs(part).max()
        empty = np.finfo(w.dtype).tiny if grid.bits == 1 else w.dtype.type(1)
        s = (reach if grid.kind == "power_of_two" else w.dtype.type(reach / w.dtype.type(q))) or empty
        codes[where] = np.clip(numpy_codes(part / s, grid), -q, q)
        units = codes[where].astype(w.dtype)
        if grid.kind == "power_of_two":
            units = np.sign(units) * np.exp2(np.abs(units) - q)
        values[where] = units * s
    return codes.reshape(w.shape), values.reshape(w.shape)


def drawn(shape, dtype=torch.float32, seed=0):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    if w.ndim >= 2 and w.shape[0] > 1:
        w[1] = 0  # a row without any size
    return w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_bit_for_bit_against_numpy(levels, dtype) -> None:
    for shape, axis, size in itertools.product(SHAPES, (None, 0, -1), (None, 4)):
        w, grid = drawn(shape, dtype), Grid(**levels, axis=axis, group_size=size)
        scale, zero = find_scale(w, grid)
        codes, values = numpy_statement(w.numpy(), grid)
        np.testing.assert_array_equal(to_codes(w, grid, scale, zero).numpy(), codes)
        found = round_to_grid(w, grid, scale, zero)
        assert found.dtype == dtype and found.shape == w.shape
        np.testing.assert_array_equal(found.numpy(), values, err_msg=f"{shape}, axis {axis}, groups of {size}")


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2, None])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_groups_share_a_scale_along_any_axis(axis, size) -> None:
    w, grid = drawn((3, 5, 7), seed=1), Grid(bits=3, axis=axis, group_size=size)
    scale, _ = find_scale(w, grid)
    expected = [np.abs(w.numpy().reshape(-1)[where]).max() / np.float32(3) for where in groups_of(w.shape, axis, size)]
    np.testing.assert_array_equal(scale[:, 0].numpy(), [s if s > 0 else 1 for s in expected])
    np.testing.assert_array_equal(round_to_grid(w, grid, scale).numpy(), numpy_statement(w.numpy(), grid)[1])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_complex_tensors_are_pairs_of_reals(dtype, axis) -> None:
    w = torch.randn(5, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))
    grid = Grid(bits=3, axis=axis, group_size=4)
    found = quantize_tensor(w, grid)
    codes, values = numpy_statement(torch.view_as_real(w).numpy(), grid)
    np.testing.assert_array_equal(found.codes.numpy(), codes)
    assert found.codes.shape == (5, 3, 2) and found.dequantize().dtype == dtype
    np.testing.assert_array_equal(torch.view_as_real(found.dequantize()).numpy(), values)


def test_ties_go_to_the_even_code() -> None:
    x = np.arange(-130, 131).astype(np.float32) / 2
    grid, one = Grid(bits=8, axis=None), torch.ones(1, 1)
    np.testing.assert_array_equal(to_codes(torch.from_numpy(x), grid, one).numpy(), np.rint(x))
    assert to_codes(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), grid, one).tolist() == [0, 2, 2, 0, -2]


def test_a_tie_between_powers_goes_to_the_larger() -> None:
    # Levels of three bits: 0, 1/4, 1/2, 1. Middles: 1/8, 3/8, 3/4.
    w = torch.tensor([0.12, 0.125, 0.374, 0.375, 0.749, 0.75, -0.375, 3.0])
    grid = Grid(bits=3, kind="power_of_two", axis=None)
    found = round_to_grid(w, grid, torch.ones(1, 1))
    assert found.tolist() == [0.0, 0.25, 0.25, 0.5, 0.5, 1.0, -0.5, 1.0]
    assert to_codes(w, grid, torch.ones(1, 1)).tolist() == [0, 1, 1, 2, 2, 3, -2, 3]


def test_one_bit_has_two_levels_and_zero_goes_up() -> None:
    w = torch.tensor([0.0, -0.0, -1e-9, 5.0])
    assert round_to_grid(w, Grid(bits=1, axis=None), torch.full((1, 1), 0.5)).tolist() == [0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_the_codes_of_levels_are_the_codes(levels, dtype) -> None:
    w = torch.randn(9, 40, dtype=dtype, generator=torch.Generator().manual_seed(3))
    for axis, size in ((0, None), (None, 7)):
        first = quantize_tensor(w, Grid(**levels, axis=axis, group_size=size))
        again = quantize_tensor(first.dequantize(), first.grid, scale=(first.scale, first.zero_point))
        assert torch.equal(first.codes, again.codes)
        assert torch.equal(first.dequantize(), again.dequantize())


def test_few_levels_and_none_beyond_the_ends() -> None:
    w, one = torch.randn(500, generator=torch.Generator().manual_seed(4)) * 10, torch.ones(1, 1)
    for bits in range(2, 9):
        codes = to_codes(w * 100, Grid(bits=bits, axis=None), one)
        assert codes.min() == -(2 ** (bits - 1) - 1) and codes.max() == 2 ** (bits - 1) - 1
        codes = to_codes(w * 100, Grid(bits=bits, axis=None, symmetric=False), one, torch.full((1, 1), 1.0))
        assert codes.min() == 0 and codes.max() == 2**bits - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_laid_out_and_back(shape) -> None:
    w = drawn(shape)
    for axis, size in itertools.product((None, 0, -1), (None, 1, 4)):
        grid = Grid(bits=4, axis=axis, group_size=size)
        assert torch.equal(from_rows(to_rows(w, grid), w, grid), w)
        rows = torch.arange(len(to_rows(w, grid)), dtype=w.dtype).unsqueeze(1)
        for number, where in enumerate(groups_of(shape, axis, size)):
            assert (spread(rows, w, grid).reshape(-1)[torch.from_numpy(where)] == number).all()


def test_tensors_that_are_not_contiguous() -> None:
    w = torch.randn(6, 4, generator=torch.Generator().manual_seed(5)).mT
    for levels in ({"bits": 3}, {"bits": 3, "kind": "power_of_two"}):
        for axis in (0, 1):
            grid = Grid(**levels, axis=axis, group_size=4)
            scale, zero = find_scale(w, grid)
            assert torch.equal(round_to_grid(w, grid, scale, zero), round_to_grid(w.contiguous(), grid, scale, zero))


def test_values_follow_the_scale_in_the_graph() -> None:
    scale = torch.tensor([[2.0]], requires_grad=True)
    from_codes(torch.tensor([1, -3, 0], dtype=torch.int16), Grid(bits=3, axis=None), scale).sum().backward()
    assert scale.grad is not None and scale.grad.item() == -2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 0},
        {"bits": 9},
        {"bits": True},
        {"bits": 2.0},
        {"bits": 3, "kind": "ternary"},
        {"bits": 1, "kind": "power_of_two"},
        {"bits": 4, "kind": "power_of_two", "symmetric": False},
        {"bits": 4, "kind": "unifrom"},
        {"bits": 4, "group_size": 0},
        {"bits": 4, "axis": 1.0},
    ],
    ids=str,
)
def test_what_is_no_grid_is_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        Grid(**wrong)


def test_an_axis_that_a_tensor_lacks_is_refused() -> None:
    with pytest.raises(ShapeError, match="axis=2"):
        find_scale(torch.zeros(3, 4), Grid(bits=4, axis=2))


def test_a_grid_goes_to_json_and_back() -> None:
    grid = Grid(bits=3, symmetric=False, axis=-1, group_size=16)
    assert Grid(**grid.to_dict()) == grid
