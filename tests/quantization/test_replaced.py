"""Weights replaced for a while come back bit for bit."""

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.quantization.replaced import replaced


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: p.detach().numpy().tobytes() for name, p in model.named_parameters()}


def test_only_the_named_tensors_move_and_return() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before = state(model)
    with replaced(model, {"0.weight": torch.ones(2, 3)}) as same:
        assert same is model and bool((model[0].weight == 1).all())
        assert {n for n, value in state(model).items() if value != before[n]} == {"0.weight"}
    assert state(model) == before and model[0].weight.requires_grad


def test_they_return_after_an_error_and_inside_inference_mode() -> None:
    model = nn.Linear(2, 2)
    before = state(model)
    with pytest.raises(RuntimeError, match="inside"), torch.inference_mode(), replaced(model, {"bias": torch.ones(2)}):
        raise RuntimeError("inside")
    assert state(model) == before
    with pytest.raises(ConfigError), replaced(model, {"colour": torch.ones(2)}):
        pass
    with pytest.raises(RuntimeError), replaced(model, {"weight": torch.ones(2, 2), "bias": torch.ones(3)}):
        pass
    assert state(model) == before
