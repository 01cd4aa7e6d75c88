"""RMS normalisation, also gated, and stochastic depth."""

import pytest
import torch
from torch.nn.functional import silu

from madzoo.errors import ConfigError
from madzoo.layers.drop_path import DropPath
from madzoo.layers.norms import GatedRMSNorm, RMSNorm


def test_rms_norm_equals_torch():
    x = torch.randn(3, 7, dtype=torch.float64)
    ours, theirs = RMSNorm(7).double(), torch.nn.RMSNorm(7, eps=1e-5).double()
    with torch.no_grad():
        ours.weight.copy_(torch.randn(7))
        theirs.weight.copy_(ours.weight)
    torch.testing.assert_close(ours(x), theirs(x))


def test_rms_norm_takes_its_statistics_in_float32():
    x = 300 * torch.ones(1, 4, dtype=torch.float16)  # the square overflows half precision
    assert RMSNorm(4)(x).dtype == torch.float16
    torch.testing.assert_close(RMSNorm(4)(x), torch.ones(1, 4, dtype=torch.float16))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("before", [True, False])
def test_gated_norm_is_a_norm_and_a_gate_in_either_order(groups, before):
    torch.manual_seed(0)
    norm = GatedRMSNorm(12, group_size=12 // groups, norm_before_gate=before).double()
    torch.nn.init.normal_(norm.weight)
    x, z = torch.randn(2, 5, 7, 12, dtype=torch.float64)
    parts = zip((x if before else x * silu(z)).chunk(groups, -1), norm.weight.chunk(groups), strict=True)
    expected = torch.cat([torch.nn.functional.rms_norm(part, gain.shape, gain, 1e-5) for part, gain in parts], -1)
    torch.testing.assert_close(norm(x, z), expected * silu(z) if before else expected)
    if before:
        torch.testing.assert_close(norm(x), expected)


def test_gated_norm_computes_in_float32():
    x, z = torch.full((1, 4), 300, dtype=torch.float16), torch.full((1, 4), 20, dtype=torch.float16)
    for before, expected in ((True, 20), (False, 1)):
        y = GatedRMSNorm(4, norm_before_gate=before)(x, z)
        assert y.dtype == torch.float16
        torch.testing.assert_close(y, torch.full((1, 4), expected, dtype=torch.float16))


def test_gated_norm_wants_groups_that_fit():
    with pytest.raises(ConfigError, match="group_size=5"):
        GatedRMSNorm(12, group_size=5)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    branch, x = DropPath(0.25), torch.ones(4000, 3)
    kept = branch.train()(x)
    assert torch.equal(kept.min(1).values, kept.max(1).values)
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 4 / 3]))
    assert abs(kept.mean().item() - 1) < 0.05
    assert torch.equal(branch.eval()(x), x)
