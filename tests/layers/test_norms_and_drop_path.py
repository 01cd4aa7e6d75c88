"""RMS normalisation and stochastic depth."""

import torch

from madzoo.layers.drop_path import DropPath
from madzoo.layers.norms import RMSNorm


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


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    branch, x = DropPath(0.25), torch.ones(4000, 3)
    kept = branch.train()(x)
    assert torch.equal(kept.min(1).values, kept.max(1).values)
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 4 / 3]))
    assert abs(kept.mean().item() - 1) < 0.05
    assert torch.equal(branch.eval()(x), x)
