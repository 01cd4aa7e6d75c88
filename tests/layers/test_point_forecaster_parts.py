"""The parts under the published point forecasters: the past they accept, their stack of layers, what decay spares."""

import pytest
import torch
from torch import nn

from madzoo.errors import ShapeError
from madzoo.layers.layer_stack import LayerStack
from madzoo.layers.past_values import check_past_values, fit_context
from madzoo.layers.weight_decay import named_by_layers


def test_channels_are_counted_and_checked():
    assert check_past_values(torch.zeros(2, 5, 3), None) == check_past_values(torch.zeros(0, 5, 3), 3) == 3
    with pytest.raises(ShapeError, match="made for 4 channels"):
        check_past_values(torch.zeros(2, 5, 3), 4)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 0, 3), (2, 5, 0), (1, 2, 5, 3)])
def test_what_is_no_past(shape):
    with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
        check_past_values(torch.zeros(shape), None)
    with pytest.raises(ShapeError, match="int64"):
        check_past_values(torch.zeros(2, 5, 3, dtype=torch.int64), None)


@pytest.mark.parametrize("dim", [-1, 0, 1, 2])
def test_a_past_is_cropped_or_continued_at_its_beginning(dim):
    x = torch.arange(24.0).reshape(2, 3, 4).transpose(0, dim)  # two steps along the axis
    assert torch.equal(fit_context(x, 1, dim=dim), x.narrow(dim, 1, 1))
    assert torch.equal(fit_context(x, 2, dim=dim), x)
    longer = fit_context(x, 5, dim=dim)
    assert longer.narrow(dim, 0, 3).isnan().all() and torch.equal(longer.narrow(dim, 3, 2), x)


def test_a_stack_applies_its_layers_in_order_and_a_norm():
    torch.manual_seed(0)
    layers, x = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)], torch.randn(2, 3, 4)
    stack = LayerStack("attn_layers", layers, width=4)
    torch.testing.assert_close(stack(x), stack.norm(layers[2](layers[1](layers[0](x)))))
    assert [name for name, _ in stack.named_children()] == ["attn_layers", "norm"]
    assert "attn_layers.2.bias" in stack.state_dict()


class Sparing(nn.Module):
    def no_weight_decay(self):
        return {"D"}


def test_a_model_does_not_ask_itself_what_decay_spares():
    class Model(Sparing):
        def __init__(self):
            super().__init__()
            self.parts = nn.Sequential(Sparing(), nn.ReLU(), Sparing())

    assert named_by_layers(Model()) == {"parts.0.D", "parts.2.D"}
