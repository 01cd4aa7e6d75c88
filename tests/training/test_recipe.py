"""Recipes: what is read is what was written, and nothing else is taken."""

import dataclasses

import numpy as np
import pytest

from madzoo.errors import ConfigError
from madzoo.training.recipe import RANGES, Recipe
from madzoo.training.schedule import learning_rate

MINIMAL = {"name": "a.b", "dataset": "d", "epochs": 2, "batch_size": 8, "lr": 0.1, "loss": "mse"}


def test_file_round_trip(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a.b\ndataset: d\nepochs: 2\nbatch_size: 8\nlr: 1\nloss: mse\nmodel_args: {depth: 3}\n")
    recipe = Recipe.from_file(path, seed=4)
    assert (recipe.lr, recipe.seed, recipe.model_args) == (1.0, 4, {"depth": 3})
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"lr": "fast"}, "takes a float"),
        ({"epochs": True}, "takes a int"),
        ({"epochs": 0}, "at least 1"),
        ({"loss": "hinge"}, "cross_entropy"),
        ({"min_lr": 0.2}, "min_lr"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"workers": -1}, "at least 0"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be"),
        ({"lr": float("inf")}, "lr must be at least 0 and finite"),
        ({"beta2": 1.0}, "beta2 must be at least 0 and below 1"),
        ({"clip_norm": -0.5}, "clip_norm"),
        ({"label_smoothing": 2.0}, "label_smoothing"),
        ({"mixup": -1.0}, "mixup"),
        ({"cutmix": float("inf")}, "cutmix"),
        ({"seed": 2**64}, "seed"),
        ({"layer_decay": float("nan")}, "layer_decay"),
        ({"refit": True, "select": "best"}, "choose nothing"),
        ({"refit": True, "patience": 2}, "choose nothing"),
    ],
)
def test_bad_entries_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        Recipe.from_dict({**MINIMAL, **change})


def test_every_number_has_a_range():
    numbers = {f.name for f in dataclasses.fields(Recipe) if f.type in (int, float)}
    assert numbers == {*RANGES, "layer_decay"}


def test_numbers_of_other_libraries_become_pythons():
    recipe = Recipe.from_dict({**MINIMAL, "epochs": np.int64(2), "lr": np.float32(0.5)})
    assert type(recipe.epochs) is int and type(recipe.lr) is float and recipe.lr == 0.5


def test_missing_entries_are_named():
    with pytest.raises(ConfigError, match="batch_size, lr"):
        Recipe.from_dict({k: v for k, v in MINIMAL.items() if k not in ("lr", "batch_size")})


@pytest.mark.parametrize(("text", "word"), [("- 1\n", "no mapping"), ("a: [", "no YAML"), (None, "cannot be read")])
def test_bad_files_are_named(tmp_path, text, word):
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        Recipe.from_file(path)


def test_schedule_rises_then_falls():
    recipe = Recipe.from_dict({**MINIMAL, "warmup_steps": 10, "min_lr": 0.01})
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and max(rates) == 0.1
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0.01 <= rates[-1] < 0.011
