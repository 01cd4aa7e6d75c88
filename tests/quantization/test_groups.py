"""Groups of tensors: each parameter in one, as many groups as a ranking needs where the model has the tensors."""

import pytest
import torch
from torch import nn

from madzoo.factory import create_model
from madzoo.quantization.groups import tensor_groups


def deep() -> nn.Module:
    block = lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))  # noqa: E731
    return nn.ModuleDict({"blocks": nn.ModuleList([block() for _ in range(3)]), "head": nn.Linear(4, 2)})


@pytest.mark.parametrize("fewest", [1, 3, 5, 8, 99])
def test_groups_partition_the_parameters(fewest: int) -> None:
    model = deep()
    groups = tensor_groups(model, fewest=fewest)
    names = [name for group in groups.values() for name in group.names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) >= min(fewest, len(names))


def test_the_largest_kind_is_divided_by_block_first() -> None:
    assert list(tensor_groups(deep(), fewest=1)) == ["linear", "vector", "head"]
    groups = tensor_groups(deep(), fewest=4)
    assert list(groups) == ["linear blocks.0", "vector", "linear blocks.1", "linear blocks.2", "head"]
    assert groups["linear blocks.1"].names == ("blocks.1.0.weight", "blocks.1.1.weight")
    assert {group.kind for group in groups.values()} == {"linear", "vector", "head"}


def test_a_tied_tensor_is_grouped_once_and_integers_are_not() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    model.register_parameter("steps", nn.Parameter(torch.zeros(2, dtype=torch.long), requires_grad=False))
    assert [group.names for group in tensor_groups(model).values()] == [("a.weight",)]


@pytest.mark.parametrize("name", ["weft_micro_patch8_32", "patch_s4d_nano_512_96"])
def test_our_models_have_enough_kinds(name: str) -> None:
    groups = tensor_groups(create_model(name))
    assert len(groups) >= 8 and {"A", "dt", "head", "embed"} <= set(groups)
