"""The quantile head: shapes, order, shift, gradients."""

import pytest
import torch

from madzoo.layers.quantile_head import QuantileHead


@pytest.mark.parametrize("bottleneck", [0, 5])
@pytest.mark.parametrize("num_quantiles", [1, 9])
def test_sorted_shifted_and_trained(bottleneck, num_quantiles):
    head = QuantileHead(
        num_tokens=4, d_model=3, prediction_length=6, num_quantiles=num_quantiles, bottleneck=bottleneck
    )
    x, shift = torch.randn(2, 4, 3), torch.randn(2, 6)
    y = head(x, shift_BH=shift)
    assert y.shape == (2, 6, num_quantiles)
    assert y.diff(dim=-1).ge(0).all()
    torch.testing.assert_close(y - shift.unsqueeze(-1), head(x))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_gate_weighs_the_anchor():
    head = QuantileHead(num_tokens=4, d_model=3, prediction_length=6, num_quantiles=2, anchors=1)
    x, anchor = torch.randn(5, 4, 3), torch.randn(5, 1)
    share = (head(x, anchors_BAH=anchor.unsqueeze(-1)) - head(x)) / anchor.unsqueeze(-1)
    assert ((share > 0) & (share < 1)).all() and share.std() > 0.01
    torch.testing.assert_close(share[..., 0], share[..., 1], rtol=1e-3, atol=1e-4)


def test_sorting_never_raises_the_pinball_loss():
    levels, target = torch.tensor([0.1, 0.5, 0.9]), torch.randn(500, 1)
    crossed = torch.randn(500, 3)

    def pinball(q):
        error = target - q
        return torch.maximum(levels * error, (levels - 1) * error).sum(-1)

    assert (pinball(crossed.sort(-1).values) <= pinball(crossed) + 1e-6).all()
