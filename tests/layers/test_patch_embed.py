"""The patch stem, and position embeddings resampled around a middle token."""

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.layers.patch_embed import PatchEmbed, drop_middle, patch_grid, resample_around_middle, resample_positions


def test_tokens_are_patches_in_reading_order():
    stem = PatchEmbed(patch_size=2, stride=2, in_chans=1, embed_dim=4)
    with torch.no_grad():
        stem.proj.weight.copy_(torch.eye(4).reshape(4, 1, 2, 2))
        stem.proj.bias.zero_()
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    tokens = stem(image)[0].tolist()
    assert tokens[0] == [0, 1, 6, 7]
    assert tokens[1] == [2, 3, 8, 9]
    assert tokens[3] == [12, 13, 18, 19]


def test_grids():
    assert patch_grid((224, 224), patch_size=16, stride=8) == (27, 27)
    assert patch_grid((16, 32), patch_size=16, stride=16) == (1, 2)
    with pytest.raises(ShapeError, match="resize or pad to 224 x 304"):
        patch_grid((230, 300), patch_size=16, stride=16)
    with pytest.raises(ShapeError, match="16 x 32"):
        patch_grid((8, 32), patch_size=16, stride=16)


def test_images_that_do_not_fit_are_told():
    stem = PatchEmbed(patch_size=4, stride=4, in_chans=3, embed_dim=8)
    for wrong in (torch.zeros(1, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 10)):
        with pytest.raises(ShapeError):
            stem(wrong)


def ramp(rows, columns, dtype=torch.float64):
    """A position embedding whose two channels are the centres of its cells, in units of the image."""
    y = (torch.arange(rows, dtype=dtype) + 0.5) / rows
    x = (torch.arange(columns, dtype=dtype) + 0.5) / columns
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(1, -1, 2)


def test_resampling_keeps_positions_where_they_are():
    resampled = resample_positions(ramp(14, 14), (14, 14), (20, 28)).unflatten(1, (20, 28))
    exact = ramp(20, 28).unflatten(1, (20, 28))
    inside = slice(3, -3)  # the border is clamped; elsewhere torch's cubic bends a ramp by 1/20 of a cell at most
    torch.testing.assert_close(resampled[:, inside, inside], exact[:, inside, inside], rtol=0, atol=1 / 20 / 14)


def test_the_middle_token_moves_to_the_new_middle_unchanged():
    token = torch.tensor([[[7.0, -7.0]]], dtype=torch.float64)
    grid = ramp(4, 4)
    positions = torch.cat([grid[:, :8], token, grid[:, 8:]], 1)
    assert torch.equal(drop_middle(positions), grid)
    resampled = resample_around_middle(positions, (4, 4), (5, 3))
    assert resampled.shape == (1, 16, 2)
    assert torch.equal(resampled[:, 7:8], token)
    assert torch.equal(drop_middle(resampled), resample_positions(grid, (4, 4), (5, 3)))
    assert resample_around_middle(positions, (4, 4), (4, 4)) is positions


def test_half_precision_positions_keep_their_dtype():
    assert resample_positions(ramp(4, 4).to(torch.bfloat16), (4, 4), (6, 6)).dtype == torch.bfloat16
