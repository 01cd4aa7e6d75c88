"""Weft: shapes, protocol, gradients, and the ablation."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.factory import create_model
from madzoo.models.image.weft import ResidualConvolutions, Weft, WeftConfig
from madzoo.registry import find_spec

TINY = {"embed_dim": 16, "depth": 2, "d_state": 4, "dt_rank": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Weft(WeftConfig(**TINY)).eval()


@pytest.mark.parametrize("size", [(32, 32), (28, 40), (5, 9)])
def test_any_size_works_at_call_time(model, size):
    assert model(torch.randn(2, 3, *size)).shape == (2, 10)


def test_rows_and_columns_take_turns(model):
    """Scanning the turned grid by columns is scanning the grid by rows, and is not scanning it by columns."""
    assert [block.mixer.route for block in model.blocks] == ["rows", "columns"]
    grid = torch.randn(1, 5, 7, 16)
    by_rows, by_columns = (block.mixer for block in model.blocks)
    by_columns.load_state_dict(by_rows.state_dict())
    torch.testing.assert_close(by_columns(grid.transpose(1, 2)).transpose(1, 2), by_rows(grid))
    difference = (by_columns(grid) - by_rows(grid)).abs().max()
    assert difference > 1e-3 * by_rows(grid).abs().max()


def test_each_position_sees_the_whole_grid(model):
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    corner = model.forward_features(x)[0, 0, 0, 0]  # the sum over channels is constant after a LayerNorm
    (gradient,) = torch.autograd.grad(corner, x)
    assert gradient[0, :, -4:, -4:].abs().sum() > 0


def test_ablation_removes_the_scan_and_nothing_else():
    full, bare = (dict(Weft(WeftConfig(**TINY, scan=scan)).named_parameters()) for scan in (True, False))
    removed = set(full) - set(bare)
    assert set(bare) < set(full)
    assert all(".directions." in name for name in removed)


def test_double_precision_throughout(model):
    assert model.double()(torch.randn(1, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_wrong_input_is_named(model):
    with pytest.raises(ShapeError, match="batch of images"):
        model(torch.randn(1, 1, 32, 32))
    with pytest.raises(ShapeError, match="batch of images"):
        model(torch.randn(1, 3, 2, 32))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("weft_micro_patch4_28", 539_114), ("weft_micro_patch4_32", 1_056_170), ("weft_micro_patch16_128", 1_097_498)],
)
def test_micro_models_stay_small(name, parameters):
    model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config == find_spec(name).config


@pytest.fixture
def deep():
    torch.manual_seed(0)
    return Weft(WeftConfig(**TINY, stem_blocks=(0, 2, 1)))


def test_the_plain_stem_is_the_default(model):
    assert [name for name, _ in model.stem.named_parameters()] == [
        f"{i}.{kind}" for i in (0, 1, 3, 4, 6, 7) for kind in (("weight",) if i % 3 == 0 else ("weight", "bias"))
    ]


def test_residual_pairs_add_nothing_before_training(deep):
    x = torch.randn(2, 16, 8, 8)
    pairs = [module for module in deep.stem if isinstance(module, ResidualConvolutions)]
    assert [pair.pair[0].in_channels for pair in pairs] == [8, 8, 16]
    torch.testing.assert_close(pairs[-1](x), x, rtol=0, atol=0)


def test_a_residual_stem_keeps_sizes_and_moves_all_its_weights(deep):
    optimizer = torch.optim.SGD(deep.parameters(), lr=0.01)
    for _ in range(2):  # the zeros at the end of each pair must move before the rest of it can
        deep.zero_grad()
        features = deep.forward_features(torch.randn(4, 3, 28, 20))
        features.square().mul(torch.rand_like(features)).sum().backward()
        optimizer.step()
    assert features.shape == (4, 7, 5, 16)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in deep.stem.parameters())


def test_a_residual_stem_adapts_to_other_channels():
    names = set(Weft(WeftConfig(**TINY, stem_blocks=(0, 1, 1))).state_dict())
    assert {"stem.0.weight", "stem.4.weight"} <= names
    grey = Weft(WeftConfig(**TINY, stem_blocks=(0, 1, 1), in_chans=1)).eval()
    assert grey(torch.randn(1, 1, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize(
    ("patch_size", "blocks"), [(4, (0, 1, 1)), (8, ()), (8, (1, 0, 1)), (16, ()), (16, (0, 1, 1, 0))]
)
def test_the_stem_strides_by_the_patch_size(patch_size, blocks):
    model = Weft(WeftConfig(**TINY, patch_size=patch_size, stem_blocks=blocks)).eval()
    assert model.forward_features(torch.randn(2, 3, 64, 48)).shape == (2, 64 // patch_size, 48 // patch_size, 16)
    assert {info["reduction"] for info in model.feature_info} == {patch_size}
    with pytest.raises(ShapeError):
        model(torch.randn(2, 3, 64, patch_size - 1))


@pytest.mark.parametrize("choice", [{"patch_size": 5}, {"patch_size": 16, "stem_blocks": (0, 1, 1)}])
def test_ill_fitting_patches_are_refused(choice):
    with pytest.raises(ValueError, match=r"patch_size|stem_blocks"):
        WeftConfig(**TINY, **choice)


@pytest.mark.parametrize("counts", [(1,), (0, 1), (0, -1, 0), (0, 1.5, 0)])
def test_ill_formed_stems_are_refused(counts):
    with pytest.raises(ValueError, match="stem_blocks"):
        WeftConfig(**TINY, stem_blocks=counts)


def test_a_list_of_counts_serves_as_a_tuple():
    model = create_model("weft_micro_patch4_32", stem_blocks=[0, 1, 0])
    assert model.config.stem_blocks == (0, 1, 0)
