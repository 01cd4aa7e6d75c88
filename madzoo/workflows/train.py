"""The training workflow: a recipe file in, a checkpoint folder out."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madzoo.checkpoint.folder import read_folder, write_folder
from madzoo.checkpoint.resolve import parse_name
from madzoo.data.catalog import find_dataset
from madzoo.errors import ConfigError, UnknownModelError
from madzoo.factory import create_model, model_info
from madzoo.registry import ModelSpec, PretrainedCfg
from madzoo.training.loop import TrainingResult, make_accelerator
from madzoo.training.loop import train as run_loop
from madzoo.training.recipe import Recipe
from madzoo.workflows.report import report
from madzoo.workflows.training_task import training_task

__all__ = ["train"]


def train(
    recipe: Recipe | Path | str,
    *,
    out: Path | str | None = None,
    run_dir: Path | str | None = None,
    data_dir: Path | str | None = None,
    max_minutes: float | None = None,
    seed: int | None = None,
    reports: bool = True,
) -> TrainingResult:
    """Trains what a recipe says, or goes on with it; when it ends, writes the checkpoint folder with its card.

    Args:
        recipe: a recipe, or the path of its YAML file.
        out: the checkpoint folder; ``<run_dir>/checkpoint`` by default.
        run_dir: holds the resumable state and the log; ``runs/<name>-seed<seed>`` by default.
        data_dir: local data folder; see :func:`madzoo.data.catalog.data_dir`.
        max_minutes: stops at a resumable point after so long.
        seed: replaces the recipe's.
        reports: measure geometry and quantization on the validation part at the end; see
            :func:`madzoo.workflows.report.report` for what that costs. False leaves the card to it.

    Raises:
        ConfigError: when the recipe, its model or its data set do not fit together.
        CheckpointError: when the run folder holds another run.
        DataError: when the data cannot be read.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_file(recipe)
    if seed is not None:
        recipe = dataclasses.replace(recipe, seed=seed)
    arch, _, tag = recipe.name.partition(".")
    if not tag:
        raise UnknownModelError("a recipe names the checkpoint it makes, arch.tag.", asked=recipe.name)
    spec = model_info(arch)
    model_args = {**(spec.weights[tag].model_args if tag in spec.weights else {}), **recipe.model_args}
    torch.manual_seed(recipe.seed)
    model = create_model(arch, **model_args)
    if recipe.start:
        model.load_state_dict(_started(recipe, spec, model).state_dict())
    folder = Path(run_dir or f"runs/{recipe.name}-seed{recipe.seed}")
    accelerator = make_accelerator()
    processes = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    task = training_task(model, recipe, folder=data_dir, **processes)
    result = run_loop(
        model, task.source, task.loss, task.validate, recipe, folder, max_minutes=max_minutes, accelerator=accelerator
    )
    if result.finished and accelerator.is_main_process:
        golden = _golden(create_model(arch, **model_args), result, task.example)
        checkpoint = write_folder(
            Path(out) if out else folder / "checkpoint",
            architecture=recipe.name,
            model_args=model_args,
            pretrained_cfg=_pretrained_cfg(spec, tag, recipe),
            state=result.state,
            golden=golden,
        )
        if reports:
            report(checkpoint.path, data_dir=data_dir)
    return result


def _started(recipe: Recipe, spec: ModelSpec, model: Any) -> nn.Module:
    """Loads the weights that a recipe starts from, in the shapes of its own model."""
    place = parse_name(recipe.start)
    arch = read_folder(place.path).config.architecture.partition(".")[0] if place.path else recipe.start
    family = model_info(arch).family
    if family != spec.family:
        raise ConfigError(f"weights of {family} do not start a {spec.family}.", asked=recipe.start)
    config = {field.name: getattr(model.config, field.name) for field in dataclasses.fields(model.config)}
    return create_model(recipe.start, pretrained=True, **config)


def _golden(model: nn.Module, result: TrainingResult, example: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model.load_state_dict(dict(result.state))
    with torch.inference_mode():
        return example, model.eval()(example)


def _pretrained_cfg(spec: ModelSpec, tag: str, recipe: Recipe) -> dict[str, Any]:
    if tag in spec.weights:
        cfg = spec.weights[tag]
    elif spec.task != "image-classification":
        cfg = PretrainedCfg(license="apache-2.0", dataset=recipe.dataset)
    else:
        data = find_dataset(recipe.dataset)
        size = (data.channels, data.image_size, data.image_size)
        cfg = PretrainedCfg(
            license="apache-2.0", dataset=data.name, input_size=size, mean=data.mean, std=data.std,
            class_names=data.class_names,
        )  # fmt: skip
    return {**cfg.to_dict(), "model_args": dict(recipe.model_args)}
