"""Stems and downsampling: shapes, the order in which four tokens are laid side by side, names, refusals."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.layers.pyramid import PatchMerging, downsample, patch_stem


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_stems_make_patches(kind):
    stem = patch_stem(kind, in_chans=5, width=8, patch_size=4)
    assert stem(torch.randn(2, 5, 16, 24)).shape == (2, 4, 6, 8)
    convs = [name for name, p in stem.named_parameters() if p.dim() == 4]
    assert convs == (["0.weight"] if kind == "v1" else ["0.weight", "5.weight"])


@pytest.mark.parametrize(("kind", "shape"), [("v1", (2, 3, 2)), ("v2", (2, 2, 2)), ("v3", (2, 3, 2))])
def test_downsampling_halves_the_grid(kind, shape):
    assert downsample(kind, 6)(torch.randn(shape[0], 5, 4, 6)).shape == (*shape, 12)


def test_merging_reads_columns_after_rows_and_pads_with_zeros():
    merge, seen = PatchMerging(1), []
    merge.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    merge(torch.arange(1.0, 7.0).reshape(1, 2, 3, 1))
    assert seen[0].tolist() == [[[[1, 4, 2, 5], [3, 6, 0, 0]]]]


def test_unknown_kinds_are_told():
    with pytest.raises(ConfigError, match="'v3'"):
        patch_stem("v3", in_chans=3, width=8, patch_size=4)
    with pytest.raises(ConfigError, match="none"):
        downsample("none", 8)
