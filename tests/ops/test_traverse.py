"""Routes through a grid and back, in one direction and in four."""

import pytest
import torch

from madzoo.errors import ConfigError, ShapeError
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.traverse import CONTINUOUS, CROSS, ROUTES, cross_merge, cross_scan, to_grid, to_sequence

GRIDS = [(1, 1), (1, 5), (4, 1), (3, 5), (4, 4), (6, 3)]


def walk_rows(height, width):
    return [i * width + j for i in range(height) for j in range(width)]


def walk_columns(height, width):
    return [i * width + j for j in range(width) for i in range(height)]


def walk_snake(height, width):
    """Goes right along the first row, one down, left along the second, as PlainMamba's first order does."""
    cell, step, order = (0, 0), 1, []
    while cell[0] < height:
        order.append(cell[0] * width + cell[1])
        ahead = cell[1] + step
        cell, step = ((cell[0], ahead), step) if 0 <= ahead < width else ((cell[0] + 1, cell[1]), -step)
    return order


def walk_snake_columns(height, width):
    return [(cell % height) * width + cell // height for cell in walk_snake(width, height)]


WALKS = dict(zip(ROUTES, (walk_rows, walk_columns, walk_snake, walk_snake_columns), strict=True))


def numbered(height, width):
    return torch.arange(height * width).reshape(1, height, width, 1)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_routes_visit_the_tokens_in_their_order(route, grid):
    assert to_sequence(numbered(*grid), route=route).flatten().tolist() == WALKS[route](*grid)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_round_trip(route, grid):
    x = torch.randn(2, *grid, 4)
    assert torch.equal(to_grid(to_sequence(x, route=route), *grid, route=route), x)
    sequence = torch.randn(2, grid[0] * grid[1], 4)
    assert torch.equal(to_sequence(to_grid(sequence, *grid, route=route), route=route), sequence)


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_go_the_way_back(route):
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 15, 4, dtype=torch.float64)
    to_sequence(x, route=route).backward(weights)
    assert torch.equal(x.grad, to_grid(weights, 3, 5, route=route))
    assert torch.autograd.gradcheck(lambda y: to_grid(y, 3, 5, route=route), weights.requires_grad_())


def shares_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def test_nothing_is_copied_where_a_view_serves():
    x = torch.randn(2, 3, 5, 4)
    assert shares_memory(to_sequence(x, route="rows"), x)
    images = torch.randn(2, 4, 3, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        grid = images.contiguous(memory_format=layout).permute(0, 2, 3, 1)
        assert shares_memory(to_sequence(grid, route="rows"), grid)
    y = to_sequence(x, route="columns")
    assert shares_memory(to_grid(y, 3, 5, route="columns"), y)
    assert shares_memory(to_grid(x.flatten(1, 2), 3, 5, route="rows"), x)


@pytest.mark.parametrize("directions", [CROSS, CONTINUOUS], ids=["cross", "continuous"])
def test_a_direction_run_from_its_end_has_no_copy_of_its_own(directions):
    x = torch.randn(2, 3, 5, 4)
    traversals = cross_scan(x, directions=directions)
    assert [traversal.reverse for traversal in traversals] == [direction.reverse for direction in directions]
    assert len({traversal.tokens.data_ptr() for traversal in traversals}) == 2
    assert directions is not CROSS or shares_memory(traversals[0].tokens, x)


def test_cross_directions_are_those_of_vmamba():
    """Rows, columns, rows from the end, columns from the end, as its checkpoints have them."""
    image = torch.randn(2, 4, 3, 5)
    rows, columns = image.flatten(2), image.transpose(2, 3).flatten(2)
    expected = [rows, columns, rows.flip(-1), columns.flip(-1)]
    for (x_BLD, reverse), published in zip(cross_scan(image.permute(0, 2, 3, 1)), expected, strict=True):
        assert torch.equal((x_BLD.flip(1) if reverse else x_BLD).transpose(1, 2), published)


def test_continuous_directions_are_those_of_plainmamba():
    """On 3 x 2 tokens: along the rows and back, along the columns and back."""
    expected = [[0, 1, 3, 2, 4, 5], [5, 4, 2, 3, 1, 0], [0, 2, 4, 5, 3, 1], [1, 3, 5, 4, 2, 0]]
    traversals = cross_scan(numbered(3, 2), directions=CONTINUOUS)
    assert [(y.flip(1) if reverse else y).flatten().tolist() for y, reverse in traversals] == expected


@pytest.mark.parametrize("directions", [CROSS, CONTINUOUS], ids=["cross", "continuous"])
def test_merging_adds_at_every_token(directions):
    ys = [torch.randn(2, 15, 4) for _ in directions]
    expected = sum(to_grid(y, 3, 5, route=route) for y, (route, _) in zip(ys, directions, strict=True))
    torch.testing.assert_close(cross_merge(ys, 3, 5, directions=directions), expected)
    x = torch.randn(2, 3, 5, 4)
    merged = cross_merge([y for y, _ in cross_scan(x, directions=directions)], 3, 5, directions=directions)
    torch.testing.assert_close(merged, 4 * x)


@pytest.mark.parametrize("directions", [CROSS, CONTINUOUS], ids=["cross", "continuous"])
def test_reverse_scans_equal_scans_of_reversed_copies(directions):
    """The four scans of a two-dimensional block, as published code lays them out at length."""
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    A = -torch.rand(4, 2, dtype=torch.float64)

    def scan(x_BLD, reverse):
        u = x_BLD.transpose(1, 2)
        return selective_scan(u, u.sigmoid(), A, u[:, :2], u[:, 2:], reverse=reverse).transpose(1, 2)

    merged = cross_merge([scan(*t) for t in cross_scan(x, directions=directions)], 3, 5, directions=directions)
    laid_out = [to_sequence(x, route=route) for route, _ in directions]
    at_length = [
        scan(y.flip(1), False).flip(1) if reverse else scan(y, False)
        for y, (_, reverse) in zip(laid_out, directions, strict=True)
    ]
    expected = sum(to_grid(y, 3, 5, route=route) for y, (route, _) in zip(at_length, directions, strict=True))
    torch.testing.assert_close(merged, expected)
    weights = torch.randn_like(expected)
    grads = (torch.autograd.grad(y, x, weights, retain_graph=True)[0] for y in (merged, expected))
    torch.testing.assert_close(*grads)


def test_misfits_are_named():
    with pytest.raises(ConfigError, match="diagonal"):
        to_sequence(torch.zeros(1, 2, 2, 1), route="diagonal")
    with pytest.raises(ConfigError, match="did you mean columns"):
        to_grid(torch.zeros(1, 4, 1), 2, 2, route="colums")
    with pytest.raises(ShapeError, match="fill"):
        to_grid(torch.zeros(1, 5, 1), 2, 2, route="snake_rows")
    with pytest.raises(ConfigError, match="3 outputs"):
        cross_merge([torch.zeros(1, 4, 1)] * 3, 2, 2)
