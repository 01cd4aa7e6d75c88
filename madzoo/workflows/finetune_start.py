"""What fine-tuning of a forecaster begins with: a model of its own, and of it what may learn."""

import copy
from typing import Any

import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster
from madzoo.workflows.finetune_folder import as_name

__all__ = ["MODES", "make_learner", "start_model"]

MODES = ("full", "head")


def start_model(model_or_name: nn.Module | str, prediction_length: int | None, seed: int) -> Forecaster:
    """Returns a model of its own: a copy, or built by name.

    Raises:
        ConfigError: when it is no forecaster with parameters, or cannot have that horizon.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if isinstance(model_or_name, str):
        sizes: dict[str, Any] = {} if prediction_length is None else {"prediction_length": prediction_length}
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of a head that starts anew
            model = create_model(as_name(model_or_name), pretrained=True, **sizes)
    elif prediction_length not in (None, getattr(model_or_name, "prediction_length", None)):
        raise ConfigError(
            "a module comes with its horizon.",
            asked=f"prediction_length={prediction_length}",
            todo="the model's name, whose head is then made anew",
        )
    else:
        model = copy.deepcopy(model_or_name)
    if getattr(model, "asks_season", False) and prediction_length is not None:
        raise ConfigError(
            f"the horizon of {type(model).__name__} follows from its season.",
            asked=f"prediction_length={prediction_length}",
            todo="leave it out: predict and madzoo.forecast cut forecasts or roll them out",
        )
    if not isinstance(model, Forecaster) or not any(True for _ in model.parameters()):
        raise ConfigError(
            "only forecasters with parameters are fine-tuned on series.",
            asked=model_or_name if isinstance(model_or_name, str) else type(model).__name__,
            todo="madzoo.list_models(task='time-series-forecasting', pretrained=True)",
        )
    return model


def make_learner(start: Forecaster, mode: str) -> Forecaster:
    """Returns a copy to train, of which the head alone may learn.

    Raises:
        ConfigError: when the head is asked for and the model names none.
    """
    learner = copy.deepcopy(start)
    for parameter in learner.parameters():
        parameter.requires_grad_(mode == "full")
    if mode == "head":
        heads = learner.head_parameters()
        if not heads:
            raise ConfigError(
                f"{type(start).__name__} has no head of its own.",
                asked="mode=head",
                looked=f"its head_names: {', '.join(start.head_names)}",
                todo="mode='full'",
            )
        for parameter in heads.values():
            parameter.requires_grad_(True)
    return learner
