"""The registry: names, tags, overrides, and the errors that answer for them."""

import dataclasses
import json
import pickle

import pytest
import torch

from madzoo import registry
from madzoo.errors import (
    ConfigError,
    DuplicateModelError,
    MadzooError,
    UnknownModelError,
    UnknownTagError,
    nearest,
)
from madzoo.factory import list_models, model_info
from madzoo.registry import ModelSpec, PretrainedCfg, find_spec, override_config, register_alias, register_model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    width: int = 4
    rate: float = 0.5
    levels: tuple[float, ...] = (0.5,)
    wide: bool = False

    def __post_init__(self):
        if self.width < 1:
            raise ValueError("width must be at least 1.")


@pytest.fixture
def empty(monkeypatch):
    monkeypatch.setattr(registry, "_SPECS", {})
    monkeypatch.setattr(registry, "_ALIASES", {})


def spec(name="lin_tiny", **fields):
    task = fields.pop("task", "image-classification")
    return ModelSpec(
        name=name, family="lin", task=task, config=Config(), build=lambda c: torch.nn.Linear(c.width, 1), **fields
    )


def test_found_with_and_without_tag(empty):
    register_model(spec(weights={"a": PretrainedCfg(model_args={"width": 8}), "b-int8": PretrainedCfg()}))
    assert find_spec("lin_tiny").config.width == 4
    assert find_spec("lin_tiny.a").config.width == 8
    assert find_spec("lin_tiny.b-int8").full_name == "lin_tiny.b-int8"
    assert find_spec("lin_tiny").default_tag == "a"


def test_lists_filter_by_pattern_task_and_weights(empty):
    register_model(spec(weights={"a": PretrainedCfg()}))
    register_model(spec("lin_series", task="time-series-forecasting"))
    assert registry.list_specs() == ["lin_series", "lin_tiny"]
    assert registry.list_specs("*_t*") == ["lin_tiny"]
    assert registry.list_specs(task="time-series-forecasting") == ["lin_series"]
    assert registry.list_specs(pretrained=True) == ["lin_tiny.a"]
    assert registry.list_specs(pretrained=False) == ["lin_series"]


def test_a_name_is_registered_once(empty):
    register_model(spec())
    with pytest.raises(DuplicateModelError, match="registered already"):
        register_model(spec())


@pytest.mark.parametrize("name", ["Lin", "lin.tiny", "lin-tiny", "", "lin tiny"])
def test_names_keep_the_grammar(empty, name):
    with pytest.raises(ConfigError):
        register_model(spec(name))


def test_alias_stands_for_a_name(empty):
    register_model(spec(weights={"a": PretrainedCfg()}))
    register_alias("lin-default", "lin_tiny.a")
    assert find_spec("lin-default").full_name == "lin_tiny.a"
    with pytest.raises(DuplicateModelError):
        register_alias("lin-default", "lin_tiny")


@pytest.mark.parametrize("name", ["lin_tine", "LIN_TINY"])
def test_unknown_name_gets_the_nearest(empty, name):
    register_model(spec())
    with pytest.raises(UnknownModelError, match="did you mean lin_tiny"):
        find_spec(name)


def test_unknown_tag_lists_the_tags(empty):
    register_model(spec(weights={"cifar10": PretrainedCfg()}))
    with pytest.raises(UnknownTagError, match=r"did you mean lin_tiny\.cifar10"):
        find_spec("lin_tiny.cifar100")


@pytest.mark.parametrize("name", [None, 3, ["lin"], b"lin"])
def test_a_name_is_a_string(name):
    with pytest.raises(UnknownModelError, match="a string"):
        find_spec(name)


def test_overrides_are_typed():
    changed = override_config(Config(), {"rate": 1, "levels": [0.1, 0.9]}, owner="lin")
    assert changed == Config(rate=1.0, levels=(0.1, 0.9))
    for bad, word in [
        ({"widht": 3}, "did you mean width"),
        ({"width": "3"}, "takes a int"),
        ({"width": True}, "takes a int"),
        ({"wide": 1}, "takes a bool"),
        ({"width": 0}, "at least 1"),
    ]:
        with pytest.raises(ConfigError, match=word):
            override_config(Config(), bad, owner="lin")


def test_specs_are_plain_json_and_frozen(empty):
    found = register_model(spec(weights={"a": PretrainedCfg(mean=(0.5,), input_size=(1, 8, 8))})).with_tag("a")
    values = json.loads(json.dumps(found.to_dict()))
    assert values["pretrained_cfg"]["mean"] == [0.5] and values["config"]["width"] == 4
    assert PretrainedCfg.from_dict(values["pretrained_cfg"]) == found.pretrained_cfg
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"
    with pytest.raises(ConfigError, match="did you mean license"):
        PretrainedCfg.from_dict({"licence": "mit"})


def test_errors_give_their_answers_and_survive_pickling():
    error = ConfigError("it failed.", asked="a", resolved="b", looked="c", todo="d")
    assert str(error) == "it failed.\n  asked: a\n  resolved to: b\n  looked in: c\n  try: d"
    assert isinstance(error, MadzooError) and isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert nearest("zzz", ["alpha"]) is None


def test_the_zoo_is_registered_at_the_first_call():
    assert {"vim_tiny_patch16_224", "weft_micro_patch4_32", "patch_s4d_nano_512_96"} <= set(list_models())
    assert model_info("forecast-default").full_name == "season_s4d_base_1008_192.zeroshot"
