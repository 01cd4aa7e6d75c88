"""The training loop: one for every task, on Accelerate, exactly resumable.

Everything random is a function of (seed, step): the batches (a source is indexed by the step), dropout and drop path
(the generators are seeded anew at each step). A run that was stopped anywhere and started again therefore ends with
the same weights, to the bit, on the same machine and thread count.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from madzoo.errors import CheckpointError, ConfigError
from madzoo.training.ema import WeightAverage
from madzoo.training.optimizer import make_optimizer
from madzoo.training.recipe import Recipe
from madzoo.training.run_state import RunFiles
from madzoo.training.schedule import learning_rate

__all__ = ["StepSource", "TrainingResult", "make_accelerator", "train"]

Loss = Callable[[Tensor, Tensor], Tensor]
Validate = Callable[[nn.Module], Mapping[str, float]]


class StepSource(Protocol):
    """Gives the batch of any step: a pure function of the step, so that nothing needs to be remembered."""

    steps_per_epoch: int

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns this process's part of the inputs and targets of a step."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """Tells how a run ended.

    Attributes:
        finished: False when it stopped at ``max_minutes``; the same call goes on from there.
        step, total_steps: optimizer steps done and planned.
        metrics: the validation of the chosen weights.
        chosen_step: the step whose weights were chosen.
        state: the chosen weights, on the CPU; empty while unfinished.
        seconds: wall-clock time of this call.
    """

    finished: bool
    step: int
    total_steps: int
    metrics: Mapping[str, float]
    chosen_step: int
    state: Mapping[str, Tensor]
    seconds: float

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.metrics.items())
        if not self.finished:
            return f"stopped at step {self.step} of {self.total_steps}; the same command goes on from there"
        return f"finished at step {self.step}; validation at the chosen step {self.chosen_step}: {numbers}"


@dataclass(slots=True)
class _Progress:
    """The plain numbers of a run, saved with the weights."""

    step: int = 0
    loss_sum: float = 0.0
    best_score: float = float("inf")
    best_step: int = 0
    best_metrics: dict[str, float] | None = None
    stale: int = 0
    stopped: bool = False


def train(
    model: nn.Module,
    source: StepSource,
    loss: Loss,
    validate: Validate,
    recipe: Recipe,
    run_dir: Path,
    *,
    max_minutes: float | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Trains a model, or goes on with an interrupted run of the same recipe in the same folder.

    Args:
        model: to train; it is changed in place.
        source: batches by step.
        loss: ``(model output, targets) -> scalar``.
        validate: ``model -> metrics`` with an entry ``"score"``, lower is better; called once per epoch.
        recipe: every choice of the run.
        run_dir: where ``state.pt`` and ``log.jsonl`` live.
        max_minutes: stops at a resumable point after so long.
        accelerator: device and processes; the GPUs at hand, else the CPU, by default.
        on_step: called after each step with its number and loss.

    Raises:
        CheckpointError: when the folder holds a run of another recipe.
        ConfigError: when the source has no step.
    """
    started = time.monotonic()
    accelerator = accelerator or make_accelerator()
    total = recipe.epochs * source.steps_per_epoch
    if total < 1:
        raise ConfigError("the training part is smaller than one batch.", asked=f"batch_size {recipe.batch_size}")
    run = _Run(model, recipe, RunFiles(Path(run_dir)), accelerator, total)
    run.resume()
    # A second copy of the state would be written by every process; the main one speaks for all.
    with _progress_bar(accelerator) as bar:
        task = bar.add_task(recipe.name, total=total, completed=run.progress.step, loss="")
        for inputs, targets in _batches(source, run.progress.step, total, recipe, accelerator):
            value = run.advance(inputs, targets, loss)
            bar.update(task, advance=1, loss=f"{value:.4f}")
            if on_step is not None:
                on_step(run.progress.step, value)
            if run.progress.step % source.steps_per_epoch == 0:
                run.judge(validate)
            late = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
            if run.progress.step % recipe.save_every == 0 or late or run.ended:
                run.save()
            if late or run.ended:
                break
    return run.result(time.monotonic() - started)


def make_accelerator() -> Accelerator:
    """Returns the accelerator of this process: the GPUs at hand, else the CPU, joined with its peers under torchrun."""
    # Without a GPU, Accelerate joins the processes of torchrun only when it is told that it runs on the CPU.
    return Accelerator(cpu=not torch.accelerator.is_available())


class _Run:
    def __init__(self, model: nn.Module, recipe: Recipe, files: RunFiles, accelerator: Accelerator, total: int) -> None:
        self.recipe, self.files, self.accelerator, self.total = recipe, files, accelerator, total
        self.progress = _Progress()
        self.raw = model.to(accelerator.device)
        self.average = WeightAverage(self.raw, recipe.ema_decay)
        self.best: dict[str, Tensor] = {}
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe))

    @property
    def ended(self) -> bool:
        return self.progress.step >= self.total or self.progress.stopped

    @property
    def shipped(self) -> nn.Module:
        """The weights that are validated: the average where the recipe keeps one."""
        return self.average.module if self.recipe.ema_decay else self.raw

    def advance(self, inputs: Tensor, targets: Tensor, loss: Loss) -> float:
        progress, recipe = self.progress, self.recipe
        torch.manual_seed(_mix(recipe.seed, progress.step, self.accelerator.process_index))
        rate = learning_rate(recipe, progress.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.model.train()
        # Autocast here and not by Accelerate, whose precision is one for the whole life of a process.
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
            output = self.model(inputs)
        value = loss(output.float(), targets)
        self.accelerator.backward(value)
        if recipe.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.raw, progress.step)
        progress.step += 1
        return self._log_step(value.item(), rate)

    def _log_step(self, value: float, rate: float) -> float:
        progress = self.progress
        if not value < float("inf"):
            raise CheckpointError(
                f"the loss is {value} at step {progress.step}.",
                asked=self.recipe.name,
                todo="lower lr, raise warmup_steps or set clip_norm, and start in a new run folder",
            )
        progress.loss_sum += value
        if progress.step % self.recipe.log_every == 0:
            self._log({"step": progress.step, "loss": progress.loss_sum / self.recipe.log_every, "lr": rate})
            progress.loss_sum = 0.0
        return value

    def judge(self, validate: Validate) -> None:
        """Validates, remembers the best weights, and ends the run when patience is spent."""
        progress = self.progress
        self.shipped.eval()
        metrics = {key: float(value) for key, value in validate(self.shipped).items()}
        self._log({"step": progress.step, "validation": metrics})
        better = metrics["score"] < progress.best_score
        progress.stale = 0 if better else progress.stale + 1
        if better or self.recipe.select == "last":
            progress.best_score, progress.best_step = metrics["score"], progress.step
            progress.best_metrics, self.best = metrics, _copy(self.shipped.state_dict())
        progress.stopped = bool(self.recipe.patience) and progress.stale >= self.recipe.patience

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.files.save(
            {
                "recipe": self.recipe.to_dict(),
                "progress": {name: getattr(self.progress, name) for name in _Progress.__slots__},
                "model": self.raw.state_dict(),
                "average": self.average.module.state_dict(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def resume(self) -> None:
        state = self.files.load()
        if state is None:
            return
        unstated = {field.name: field.default for field in fields(Recipe)}  # entries that recipes once did not have
        changed = sorted(k for k, v in self.recipe.to_dict().items() if v != state["recipe"].get(k, unstated[k]))
        if changed:
            raise CheckpointError(
                f"the run folder holds a run of another recipe ({', '.join(changed)} differ).",
                asked=self.recipe.name,
                looked=self.files.folder,
                todo="choose another run folder, or delete this one",
            )
        self.progress = _Progress(**state["progress"])
        self.raw.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["average"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])

    def result(self, seconds: float) -> TrainingResult:
        progress = self.progress
        return TrainingResult(
            finished=self.ended,
            step=progress.step,
            total_steps=self.total,
            metrics=progress.best_metrics or {},
            chosen_step=progress.best_step,
            state=self.best if self.ended else {},
            seconds=seconds,
        )

    def _log(self, event: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.files.log(event)


def _batches(
    source: StepSource, first: int, last: int, recipe: Recipe, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    dataset: Any = source
    loader: DataLoader[Any] = DataLoader(
        _Indexed(dataset), sampler=range(first, last), batch_size=None, num_workers=recipe.workers
    )
    for inputs, targets in loader:
        yield inputs.to(accelerator.device), targets.to(accelerator.device)


class _Indexed(Dataset[tuple[Tensor, Tensor]]):
    """Shows a source to DataLoader, whose workers run one thread each."""

    def __init__(self, source: StepSource) -> None:
        self.source = source

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self.source[step]


def _progress_bar(accelerator: Accelerator) -> Progress:
    columns = [*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]}")]
    progress = Progress(*columns, disable=not accelerator.is_main_process)
    progress.disable = progress.disable or not progress.console.is_terminal
    return progress


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _mix(*numbers: int) -> int:
    """Returns one seed from several numbers; neighbours give unrelated streams."""
    mixed = 0
    for number in numbers:
        mixed = ((mixed ^ number) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) % 2**63
    return mixed
