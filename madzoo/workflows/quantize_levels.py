"""A model brought onto levels: rounded after training, or trained on them, resumably, in a run folder."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from madzoo.checkpoint.report_files import read_report, write_report
from madzoo.errors import CheckpointError
from madzoo.quantization.ptq import post_training
from madzoo.quantization.qat import prepare_qat
from madzoo.quantization.quantized import Plan, QuantizedTensor
from madzoo.quantization.straight_through import find_estimator
from madzoo.training.loop import TrainingResult, make_accelerator, train
from madzoo.training.recipe import Recipe
from madzoo.workflows.quantize_task import OBSERVER, Subject, samples
from madzoo.workflows.training_task import TrainingTask

__all__ = ["OnLevels", "QatRun", "round_weights"]

CHOICES_FILE = "quantize.json"
TRACK_EVERY = 10  # steps between two looks at the codes: looking at each would double the time of a step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnLevels:
    """A model on its levels.

    Attributes:
        model: on the CPU.
        weights: its levels by parameter name; None while a training is unfinished.
        record: of what was done, plain JSON values.
        training: how a training ended.
    """

    model: nn.Module
    weights: Mapping[str, QuantizedTensor] | None
    record: Mapping[str, Any]
    training: TrainingResult | None = None


def round_weights(subject: Subject, plan: Plan, task: TrainingTask, *, policy: str, seed: int) -> OnLevels:
    """Rounds a subject's weights after training, with calibration samples of the training part.

    Raises:
        ConfigError, DataError: see :func:`madzoo.quantization.ptq.post_training`.
    """
    done = post_training(
        subject.model, plan, policy=policy, observer=OBSERVER, calibration=samples(task), loss_fn=task.loss, seed=seed
    )
    return OnLevels(model=done.model, weights=done.weights, record={"steps": list(done.steps)})


@dataclass(frozen=True, kw_only=True, slots=True)
class QatRun:
    """A training on levels, and where it is kept.

    Attributes:
        subject, plan: the model and its grids.
        task, recipe: its data, and how it is trained.
        estimator, group_size: see :func:`madzoo.workflows.quantize.quantize`.
        steps, run_dir, max_minutes: as there.
    """

    subject: Subject
    plan: Plan
    task: TrainingTask
    recipe: Recipe
    estimator: str
    group_size: int | None
    steps: int | None
    run_dir: Path | str | None
    max_minutes: float | None

    def train(self) -> OnLevels:
        """Trains a copy of the subject's model, or goes on with it.

        Raises:
            CheckpointError: when the run folder holds another run.
            ConfigError: see :func:`madzoo.quantization.qat.prepare_qat`.
        """
        accelerator, task, recipe = make_accelerator(), self.task, self.recipe
        self._claim(is_main=accelerator.is_main_process)
        model = copy.deepcopy(self.subject.model)
        total = None if find_estimator(self.estimator).rounds else recipe.epochs * task.source.steps_per_epoch
        qat = prepare_qat(
            model, self.plan, estimator=self.estimator, observer=OBSERVER, total_steps=total, track_every=TRACK_EVERY
        )
        result = train(
            model, task.source, task.loss, task.validate, recipe, self.folder, max_minutes=self.max_minutes,
            accelerator=accelerator, on_step=qat.on_step,
        )  # fmt: skip
        weights = qat.finish(result.state) if result.finished else None
        model.to("cpu")
        if weights is not None:
            weights = {name: _on_cpu(weight) for name, weight in weights.items()}
        return OnLevels(model=model, weights=weights, record=qat.record().to_dict(), training=result)

    @property
    def folder(self) -> Path:
        """The run folder."""
        group = f"-g{self.group_size}" if self.group_size else ""
        return Path(self.run_dir or f"runs/{self.recipe.name}{group}-{self.estimator}-seed{self.recipe.seed}")

    def _claim(self, *, is_main: bool) -> None:
        """Keeps a run folder from going on with other weights or on other levels, which no recipe states."""
        choices = {
            "weights_sha256": self.subject.model.pretrained_cfg.get("sha256"), "estimator": self.estimator,
            "group_size": self.group_size, "steps": self.steps,
        }  # fmt: skip
        present = read_report(self.folder, CHOICES_FILE)
        if present is None and is_main:
            write_report(self.folder, CHOICES_FILE, choices)
        elif present and (wrong := sorted(key for key in choices if present.get(key) != choices[key])):
            raise CheckpointError(
                f"the run folder holds a run of other choices ({', '.join(wrong)} differ).",
                asked=self.recipe.name,
                looked=self.folder,
                todo="choose another run folder, or delete this one",
            )


def _on_cpu(weight: QuantizedTensor) -> QuantizedTensor:
    moved = {name: getattr(weight, name).cpu() for name in ("codes", "scale")}
    zero = None if weight.zero_point is None else weight.zero_point.cpu()
    return dataclasses.replace(weight, **moved, zero_point=zero)
