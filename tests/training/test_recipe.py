"""Recipes: what is read is what was written, and nothing else is taken."""

import pytest

from madzoo.errors import ConfigError
from madzoo.training.recipe import Recipe
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
        ({"refit": True, "select": "best"}, "choose nothing"),
        ({"refit": True, "patience": 2}, "choose nothing"),
    ],
)
def test_bad_entries_are_named(change, word):
    with pytest.raises(ConfigError, match=word):
        Recipe.from_dict({**MINIMAL, **change})


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
