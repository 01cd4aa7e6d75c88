"""What is quantized and on which data: a model with its weights, its own training and validation parts."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from madzoo.data.catalog import DATASETS
from madzoo.data.series_steps import GENERATORS, generator_and_recordings
from madzoo.errors import ConfigError, DataError, nearest
from madzoo.factory import create_model
from madzoo.training.loop import StepSource, make_accelerator
from madzoo.training.losses import cross_entropy
from madzoo.training.recipe import Recipe
from madzoo.workflows.finetune_folder import as_name
from madzoo.workflows.training_task import TrainingTask, training_task

__all__ = ["OBSERVER", "Subject", "calibration_task", "load_subject", "qat_recipe", "qat_task", "samples"]

OBSERVER = "mse"
PACKED = re.compile(r".+-(?:int\d|t2)")
CALIBRATION = 512  # single pictures or channels
BATCH_SIZE, CALIBRATION_BATCH = 64, 32
GENERATED_STEPS = 500  # that count as an epoch of fresh synthetic series
LR, MIN_LR_SHARE, WARMUP_SHARE, CROP_SHARE = 3e-4, 1 / 100, 0.1, 1 / 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A model to quantize.

    Attributes:
        model: with its float weights, in evaluation mode.
        name: ``arch.tag``, or ``arch`` where its weights have no tag.
        dataset: what it was trained on, or what the caller said.
        data_dir: local data folder.
    """

    model: Any
    name: str
    dataset: str
    data_dir: Path | str | None

    @property
    def generator(self) -> str | None:
        """The generator of synthetic series among the training data."""
        return generator_and_recordings(self.dataset)[0]

    @property
    def is_classifier(self) -> bool:
        """Whether the model classifies images."""
        return self.model.task == "image-classification"


def load_subject(name: Path | str, *, dataset: str | None, data_dir: Path | str | None) -> Subject:
    """Loads a model of the zoo with its float weights.

    Raises:
        ConfigError: when it is none of the zoo's, quantized already, or its data set is not known here.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    if str(name).startswith("timm/"):
        raise ConfigError("only models of the zoo make checkpoint folders.", asked=name, todo="madzoo list")
    model: Any = create_model(as_name(str(name)), pretrained=True).eval()
    if PACKED.fullmatch(model.madzoo_name):
        raise ConfigError("these weights are quantized already.", asked=name, todo=model.madzoo_name.rpartition("-")[0])
    found = dataset or model.pretrained_cfg.get("dataset") or ""
    known = [*DATASETS, *GENERATORS]
    if generator_and_recordings(found)[0] is None and found not in known:
        raise ConfigError(
            "the data set that the model was trained on is not in the catalog.", asked=f"{name}, trained on {found!r}",
            todo=nearest(found, known) or "--dataset NAME, one it can be calibrated and validated on",
        )  # fmt: skip
    return Subject(model=model, name=model.madzoo_name, dataset=found, data_dir=data_dir)


def calibration_task(subject: Subject, *, seed: int) -> TrainingTask:
    """Reads the data as they are validated: nothing augmented, of synthetic series the generator's alone.

    Raises:
        ConfigError, DataError: see :func:`madzoo.workflows.training_task.training_task`.
    """
    recipe = Recipe(
        name=subject.name,
        dataset=subject.generator or subject.dataset,
        loss=_loss(subject),
        epochs=1,
        batch_size=min(_batch_size(subject), CALIBRATION_BATCH),
        steps_per_epoch=_steps(subject),
        lr=0.0,
        seed=seed,
    )
    task = training_task(subject.model, recipe, folder=subject.data_dir)
    return dataclasses.replace(task, loss=cross_entropy) if subject.is_classifier else task


def samples(task: TrainingTask) -> list[tuple[Tensor, Tensor]]:
    """Returns calibration batches of the training part, about :data:`CALIBRATION` pictures or channels.

    Raises:
        DataError: when the training part is smaller than one batch.
    """
    batches: list[tuple[Tensor, Tensor]] = []
    count = 0
    for step in range(task.source.steps_per_epoch):
        inputs, targets = task.source[step]
        batches.append((inputs, targets))
        count += len(inputs) * (1 if inputs.ndim == 4 else inputs.shape[-1])
        if count >= CALIBRATION:
            break
    if not batches:
        raise DataError("the training part is smaller than one batch.", asked=f"batches of {CALIBRATION_BATCH}")
    return batches


def qat_recipe(
    subject: Subject, name: str, *, epochs: int | None, lr: float | None, batch_size: int | None, seed: int
) -> Recipe:
    """States the training on levels: the float weights go on at a small rate, without weight decay.

    Raises:
        ConfigError: on an ill-valued choice.
    """
    rate = LR if lr is None else lr
    side = subject.model.config.img_size if subject.is_classifier else 0
    return Recipe.from_dict(
        {
            "name": name, "dataset": subject.dataset, "start": subject.name, "epochs": 1 if epochs is None else epochs,
            "steps_per_epoch": _steps(subject), "loss": _loss(subject), "lr": rate,
            "batch_size": _batch_size(subject) if batch_size is None else batch_size,
            "min_lr": MIN_LR_SHARE * rate, "clip_norm": 1.0,
            "select": "best", "flip": subject.is_classifier, "crop_padding": round(CROP_SHARE * side), "seed": seed,
        }
    )  # fmt: skip


def qat_task(subject: Subject, recipe: Recipe, *, steps: int | None) -> tuple[TrainingTask, Recipe]:
    """Reads this process's training data of a recipe; with ``steps`` in so many steps, over all epochs.

    Returns:
        The task, and the recipe with its warm-up.

    Raises:
        ConfigError: on steps that are none.
        DataError: when the data cannot be read.
    """
    if steps is not None and steps < recipe.epochs:
        raise ConfigError("there is at least one step an epoch.", asked=f"{steps} steps, {recipe.epochs} epochs")
    accelerator = make_accelerator()
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    task = training_task(subject.model, recipe, folder=subject.data_dir, **share)
    if steps is not None:
        task = dataclasses.replace(task, source=_Paced(task.source, -(-steps // recipe.epochs)))
    total = recipe.epochs * task.source.steps_per_epoch
    return task, dataclasses.replace(recipe, warmup_steps=round(WARMUP_SHARE * total))


class _Paced:
    """A source whose epochs have another number of steps."""

    def __init__(self, source: StepSource, steps_per_epoch: int) -> None:
        if source.steps_per_epoch < 1:
            raise DataError("the training part is smaller than one batch.", asked=f"{steps_per_epoch} steps")
        self.source, self.steps_per_epoch = source, steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.source[step]


def _loss(subject: Subject) -> str:
    return "cross_entropy" if subject.is_classifier else "pinball"


def _steps(subject: Subject) -> int:
    return GENERATED_STEPS if subject.generator else 0


def _batch_size(subject: Subject) -> int:
    channels = 1 if subject.is_classifier else subject.model.num_channels or 1
    return max(BATCH_SIZE // channels, 8)
