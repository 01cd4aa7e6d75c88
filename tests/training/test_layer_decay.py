"""Layer-wise learning rates: the same factors as timm's, for every family, and carried to each step."""

import dataclasses
import json

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.training.layer_decay import layer_scales
from madzoo.training.loop import train
from madzoo.training.losses import cross_entropy
from madzoo.training.optimizer import make_optimizer
from madzoo.training.recipe import Recipe

RECIPE = Recipe(
    name="tiny.run", dataset="random", epochs=1, batch_size=4, lr=0.1, loss="cross_entropy", weight_decay=0.01,
    layer_decay=0.5,
)  # fmt: skip
MODELS = [
    "vim_nano_patch4_32", "vmamba_tiny_s1l8_224", "mambavision_t_224", "plainmamba_l1_224", "weft_micro_patch4_32",
    "timm/vit_tiny_patch16_224", "timm/mambaout_femto", "timm/resnet18",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_factors_are_those_of_timm(name):
    with torch.device("meta"):
        model = create_model(name)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.75)
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = layer_scales(model, 0.75)
    assert len(set(ours.values())) > 3
    assert ours == pytest.approx(theirs)


def test_groups_hold_every_parameter_once_and_decay_as_before():
    model = create_model("weft_micro_patch4_32")
    kept = model.no_weight_decay()
    groups = make_optimizer(model, RECIPE).param_groups
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    scales = layer_scales(model, 0.5)
    for name, parameter in model.named_parameters():
        decay = 0.0 if parameter.dim() < 2 or name in kept else 0.01
        assert found[id(parameter)] == (scales[name], decay)


class Chain(nn.Sequential):
    def group_matcher(self, coarse=False):
        return {"stem": r"^0", "blocks": r"^(1)"}


def test_frozen_parameters_are_left_alone():
    model = Chain(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = make_optimizer(model, RECIPE).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


class Source:
    steps_per_epoch = 1

    def __getitem__(self, step):
        return torch.ones(4, 2), torch.zeros(4, dtype=torch.long)


def test_the_loop_steps_each_layer_by_its_own_rate(tmp_path):
    torch.manual_seed(0)
    model = Chain(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    before = [layer.weight.detach().clone() for layer in model]
    recipe = dataclasses.replace(RECIPE, weight_decay=0.0)
    train(model, Source(), cross_entropy, lambda model: {"score": 0.0}, recipe, tmp_path)
    moved = [float((layer.weight.detach() - old).abs().max()) for layer, old in zip(model, before, strict=True)]
    assert moved == pytest.approx([0.025, 0.05, 0.1], rel=1e-3)  # Adam's first step is the learning rate itself


def test_a_state_saved_before_the_entry_existed_goes_on(tmp_path):
    recipe = dataclasses.replace(RECIPE, layer_decay=1.0, epochs=2)
    torch.manual_seed(0)
    start = nn.Linear(2, 2)
    train(start, Source(), cross_entropy, lambda model: {"score": 0.0}, recipe, tmp_path, max_minutes=0)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["recipe"]["layer_decay"]
    for group in state["optimizer"]["param_groups"]:
        del group["lr_scale"]
    torch.save(state, tmp_path / "state.pt")
    result = train(nn.Linear(2, 2), Source(), cross_entropy, lambda model: {"score": 0.0}, recipe, tmp_path)
    assert result.finished and result.step == 2
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_a_model_without_layers_is_refused():
    with pytest.raises(ConfigError, match="does not describe its layers"):
        make_optimizer(nn.Linear(2, 2), RECIPE)
    with pytest.raises(ConfigError, match="layer_decay must be above 0"):
        dataclasses.replace(RECIPE, layer_decay=0.0)
