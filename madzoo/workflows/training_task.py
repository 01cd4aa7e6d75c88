"""What a recipe's data set and task mean for the training loop: batches by step, a loss, a validation."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.data.catalog import DatasetSpec, find_dataset
from madzoo.data.images import Augmentation, ImageSteps, image_batches
from madzoo.data.load import load_image_split, load_recordings, load_table
from madzoo.data.recordings import Recordings
from madzoo.data.series_steps import SyntheticSteps, WindowSteps, generator_and_recordings
from madzoo.data.windows import Borders, Windows, split_windows
from madzoo.errors import ConfigError
from madzoo.training.loop import StepSource
from madzoo.training.losses import cross_entropy, mean_squared_error, pinball
from madzoo.training.recipe import Recipe
from madzoo.training.validation import score_classifier, score_forecaster

__all__ = ["TrainingTask", "table_values", "training_task"]

VALIDATION_SEED = 2**32  # far from every training seed: the held-out synthetic series are never trained on
VALIDATION_SERIES = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTask:
    """Holds what the loop needs, and an example batch for the golden tensors.

    Attributes:
        source: batches by step.
        loss: ``(output, targets) -> scalar``.
        validate: ``model -> metrics``.
        example: a few validation inputs.
    """

    source: StepSource
    loss: Callable[[Tensor, Tensor], Tensor]
    validate: Callable[[nn.Module], dict[str, float]]
    example: Tensor


def training_task(
    model: nn.Module, recipe: Recipe, *, folder: Path | str | None, rank: int = 0, world: int = 1
) -> TrainingTask:
    """Reads the data of a recipe and prepares its loss and validation.

    Raises:
        ConfigError: when model, data set and loss do not belong together.
        DataError: when the data cannot be read.
    """
    if recipe.batch_size % world:
        raise ConfigError(f"batch_size {recipe.batch_size} does not divide among {world} processes.", asked=recipe.name)
    share = {"batch_size": recipe.batch_size, "seed": recipe.seed, "rank": rank, "world": world}
    generator, recorded = generator_and_recordings(recipe.dataset)
    if recipe.refit and (generator is not None or find_dataset(recipe.dataset).task != "time-series-forecasting"):
        raise ConfigError("only a table has validation rows to refit on.", asked=recipe.name, todo="refit: false")
    if generator is not None:
        return _synthetic(model, recipe, generator, _recordings(recorded, folder), share)
    if recipe.steps_per_epoch:
        raise ConfigError(
            "only a generator has steps_per_epoch; an epoch of other data is all of it.", asked=recipe.name
        )
    spec = find_dataset(recipe.dataset)
    task = getattr(model, "task", None)
    if task != spec.task or (recipe.loss == "cross_entropy") != (task == "image-classification"):
        found = f"a model for {task}, data for {spec.task}, loss {recipe.loss}"
        raise ConfigError("model, data set and loss do not belong together.", asked=recipe.name, resolved=found)
    build = _images if spec.task == "image-classification" else _series
    return build(model, recipe, spec, folder, share)


def table_values(spec: DatasetSpec, folder: Path | str | None) -> Tensor:
    """Returns a table's channels, float64 [N, C]."""
    return torch.from_numpy(load_table(spec, folder=folder).iloc[:, 1:].to_numpy("float64", copy=True))


def _images(
    model: nn.Module, recipe: Recipe, spec: DatasetSpec, folder: Path | str | None, share: dict[str, int]
) -> TrainingTask:
    train, held_out = (load_image_split(spec, part, folder=folder) for part in ("train", "validation"))
    fields = ("crop_padding", "flip", "mixup", "cutmix")
    augmentation = Augmentation(**{name: getattr(recipe, name) for name in fields})
    pixels = {"mean": spec.mean, "std": spec.std}
    return TrainingTask(
        source=ImageSteps(train, augmentation, mean=spec.mean, std=spec.std, **share),
        loss=partial(cross_entropy, label_smoothing=recipe.label_smoothing),
        validate=lambda model: score_classifier(model, image_batches(held_out, **pixels, batch_size=500)),
        example=next(image_batches(held_out, **pixels, batch_size=4))[0],
    )


def _series(
    model: Any, recipe: Recipe, spec: DatasetSpec, folder: Path | str | None, share: dict[str, int]
) -> TrainingTask:
    values = table_values(spec, folder)
    borders = spec.borders or Borders.from_ratio(len(values))
    lengths = {"context_length": model.context_length, "prediction_length": model.prediction_length}
    lengths["seasonality"] = spec.seasonality if spec.in_seasonal_errors else None
    train, held_out = (split_windows(values, borders, part, **lengths) for part in ("train", "validation"))
    if recipe.refit:
        train = dataclasses.replace(train, stop=held_out.stop)
    levels = model.quantile_levels
    return TrainingTask(
        source=WindowSteps(train, **share),
        loss=_forecast_loss(recipe, levels),
        validate=lambda model: score_forecaster(model, _all_windows(held_out), levels),
        example=held_out[[0]][0],
    )


def _recordings(name: str | None, folder: Path | str | None) -> Recordings | None:
    return None if name is None else Recordings(load_recordings(find_dataset(name), folder=folder))


def _synthetic(
    model: Any, recipe: Recipe, generator: str, recordings: Recordings | None, share: dict[str, int]
) -> TrainingTask:
    if recipe.loss == "cross_entropy" or recipe.steps_per_epoch < 1:
        raise ConfigError("synthetic series need a forecasting loss and steps_per_epoch.", asked=recipe.name)
    lengths = {"context_length": model.context_length, "prediction_length": model.prediction_length}
    held_out = SyntheticSteps(generator, **lengths, batch_size=256, steps_per_epoch=1, seed=VALIDATION_SEED)
    batches = [held_out[step] for step in range(VALIDATION_SERIES // 256)]
    levels = model.quantile_levels
    return TrainingTask(
        source=SyntheticSteps(
            generator, **lengths, steps_per_epoch=recipe.steps_per_epoch, recordings=recordings, **share
        ),
        loss=_forecast_loss(recipe, levels),
        validate=lambda model: score_forecaster(model, batches, levels),
        example=batches[0][0][:2],
    )


def _forecast_loss(recipe: Recipe, levels: tuple[float, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    return mean_squared_error if recipe.loss == "mse" else partial(pinball, levels=levels)


def _all_windows(windows: Windows, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(windows), batch_size):
        yield windows[range(start, min(start + batch_size, len(windows)))]
