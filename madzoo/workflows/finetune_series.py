"""Fine-tuning of a forecaster on a table or on tensors: a new model comes back, the one given stays as it was."""

import hashlib
import inspect
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from madzoo.data.columns import ID_COLUMN, TIMESTAMP_COLUMN
from madzoo.data.ragged_windows import RaggedSteps, RaggedWindows, split_ragged
from madzoo.data.series import read_series
from madzoo.errors import ConfigError, DataError, check_choice, nearest
from madzoo.layers.forecaster import Forecaster
from madzoo.layers.series_reading import whole_number
from madzoo.training.loop import TrainingResult, train
from madzoo.training.losses import mean_squared_error, pinball
from madzoo.training.recipe import Recipe
from madzoo.workflows.finetune_start import MODES, make_learner, start_model
from madzoo.workflows.season import with_season
from madzoo.workflows.series_tensors import series_tensors

__all__ = ["FINETUNE_LOSSES", "MODES", "Tuned", "check_options", "finetune_series", "tune_series"]

FINETUNE_LOSSES = ("pinball", "mae", "mse")
VALIDATIONS = 10
MOST_VALIDATION_WINDOWS = 512
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """Holds a fine-tuned forecaster and how it came about.

    Attributes:
        model: with the chosen weights, in evaluation mode; as it began, while the run is unfinished.
        training: how the run ended.
        before: the loss on the held-out part at the start.
        helped: whether a later step was better there.
        num_series, num_held_out: series, and windows of their held-out parts.
        example: a few held-out pasts [B, L, C].
    """

    model: Any
    training: TrainingResult
    before: float
    helped: bool
    num_series: int
    num_held_out: int
    example: Tensor


def finetune_series(
    model_or_name: nn.Module | str, data: pd.DataFrame | Path | str | Tensor | Sequence[Any], **options: Any
) -> Forecaster:
    """Fine-tunes a forecaster on a user's series and returns the new model; the one given is left as it is.

    Args:
        model_or_name, data, options: of :func:`tune_series`, ``max_minutes`` excepted.

    Raises:
        MadzooError: as :func:`tune_series`.
    """
    check_options(options)
    if "max_minutes" in options:
        raise ConfigError("a run that may stop returns no model.", asked="max_minutes", todo="finetune_to_folder")
    return tune_series(model_or_name, data, **options).model


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses what :func:`tune_series` does not take.

    Raises:
        ConfigError: with the nearest option.
    """
    known = list(inspect.signature(tune_series).parameters)[2:]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"fine-tuning of a forecaster has no option {name!r}.", asked=name, looked=", ".join(known),
                todo=nearest(name, known),
            )  # fmt: skip


def tune_series(
    model_or_name: nn.Module | str,
    data: pd.DataFrame | Path | str | Tensor | Sequence[Any],
    *,
    steps: int = 200,
    lr: float = 1e-3,
    mode: str = "full",
    loss: str = "pinball",
    batch_size: int = 32,
    weight_decay: float = 0.0,
    ema_decay: float = 0.0,
    val_fraction: float = 0.2,
    prediction_length: int | None = None,
    seed: int = 0,
    id_column: str = ID_COLUMN,
    timestamp_column: str = TIMESTAMP_COLUMN,
    target: str | Sequence[str] | None = None,
    freq: str | int | None = None,
    seasonality: int | None = None,
    run_dir: Path | str | None = None,
    max_minutes: float | None = None,
) -> Tuned:
    """Fine-tunes a copy of a forecaster on a user's series, or goes on with it.

    The last part of every series is held out; ten times during the run the model is validated there, and the weights of
    the best time are returned. If none is better than the start, a warning says so and the start's are.
    Windows are measured in deviations of their own past, so that every series counts alike.

    Args:
        model_or_name: a forecaster, or the name or checkpoint folder of one, whose weights are then loaded.
        data: a table or the path of one, see :func:`madzoo.data.series.read_series`; or a tensor [B, L, C]; or a list
            of [L] or [L, C] series.
        steps: optimizer steps, at least 1; made up to a multiple of the ten validations.
        lr: highest learning rate; a warm-up over a tenth of the steps leads to it and a cosine from it.
        mode: ``"full"``, or ``"head"`` to train only what reads out the forecast, as the model itself says it:
            :meth:`madzoo.layers.forecaster.Forecaster.head_parameters`; of a linear model that is all of it.
        loss: ``"pinball"`` over the model's levels, ``"mae"`` of the median, ``"mse"`` of the mean.
        batch_size: windows in a step.
        weight_decay, ema_decay: see :class:`madzoo.training.recipe.Recipe`.
        val_fraction: of the steps of every series, but at least one horizon.
        prediction_length: another horizon than the named model's; its head starts anew.
        seed: of the order and of dropout; the same call gives the same weights.
        id_column, timestamp_column, target, freq: of a table; target None takes every other column.
        seasonality: steps of a season, for models that ask for one; None: what is usual for the table's step, of
            tensors the model's own. The new model keeps it.
        run_dir: keeps the log and a resumable state; by default a folder that is removed afterwards.
        max_minutes: stops at a resumable point after so long.

    Raises:
        ConfigError: when the model is no forecaster or cannot be trained so, or on an ill-valued choice.
        DataError: when the data cannot be read, or hold no window to train or validate on.
        MadzooError: whatever :func:`madzoo.create_model` says about the name.
    """
    steps, batch_size = whole_number("steps", steps), whole_number("batch_size", batch_size)
    seed = whole_number("seed", seed, least=0)
    _check(mode, loss, val_fraction)
    start = start_model(model_or_name, prediction_length, seed)
    columns = {"id_column": id_column, "timestamp_column": timestamp_column, "target": target, "freq": freq}
    if isinstance(data, (pd.DataFrame, str, Path)):
        data = read_series(data, **columns)
        start = with_season(start, seasonality, data)
    elif seasonality is not None:
        start = with_season(start, seasonality, [])
    series = series_tensors(data, start)
    lengths = {"context_length": start.context_length, "prediction_length": start.prediction_length}
    windows, held_out = split_ragged(series, val_fraction=val_fraction, **lengths)
    if not windows.has_targets():
        raise DataError(
            "the training part has no observed value.",
            looked=f"{len(series)} series without their last {val_fraction:.0%}",
            todo="a smaller val_fraction, or series that begin with observations",
        )
    recipe = Recipe.from_dict({
        "name": f"{getattr(start, 'madzoo_name', type(start).__name__)}-finetuned",
        "dataset": f"{_fingerprint(series)} {mode} {loss} {val_fraction}",
        "loss": "mse" if loss == "mse" else "pinball",
        "epochs": min(VALIDATIONS, steps), "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay,
        "warmup_steps": steps // 10, "clip_norm": 1.0, "ema_decay": ema_decay, "select": "best", "seed": seed,
    })  # fmt: skip
    source = RaggedSteps(windows, batch_size=batch_size, steps_per_epoch=-(-steps // recipe.epochs), seed=seed)
    measure = _loss(loss, start.quantile_levels)
    learner = make_learner(start, mode)
    validate = partial(_validate, windows=held_out, measure=measure, batch_size=max(batch_size, 32))
    with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng():
        before = validate(learner.eval())["score"]
        result = train(learner, source, measure, validate, recipe, Path(run_dir or scratch), max_minutes=max_minutes)
    helped = bool(result.metrics) and result.metrics["score"] < before
    if result.finished:
        _choose(start, result, loss, before, helped=helped)
    return Tuned(
        model=start.eval(), training=result, before=before, helped=helped, num_series=len(series),
        num_held_out=len(held_out), example=next(held_out.batches(4, 4))[0],
    )  # fmt: skip


def _choose(start: Forecaster, result: TrainingResult, loss: str, before: float, *, helped: bool) -> None:
    """Gives the model the weights of the best step, where that is better than the start."""
    if helped:
        found = result.metrics["score"]
        logger.info("validation %s: %.6g before, %.6g after step %d.", loss, before, found, result.chosen_step)
        start.load_state_dict(dict(result.state))
        return
    logger.warning("no step of the fine-tuning was better on the held-out part: the weights are those of the start.")


def _check(mode: str, loss: str, val_fraction: float) -> None:
    check_choice("mode", mode, MODES)
    check_choice("loss", loss, FINETUNE_LOSSES)
    if not isinstance(val_fraction, Real) or not 0 < val_fraction < 1:
        raise ConfigError("val_fraction is a number between 0 and 1.", asked=repr(val_fraction))


def _fingerprint(series: Sequence[Tensor]) -> str:
    """Keeps a run folder from going on with other series."""
    digest = hashlib.sha256()
    for one in series:
        digest.update(str(tuple(one.shape)).encode() + one.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _loss(name: str, levels: tuple[float, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "mse":
        return mean_squared_error
    if name == "pinball":
        return partial(pinball, levels=levels)
    middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
    # The absolute error is twice the pinball loss of the median.
    return lambda quantiles, target: 2 * pinball(quantiles[..., middle : middle + 1], target, (0.5,))


@torch.inference_mode()
def _validate(
    model: nn.Module, *, windows: RaggedWindows, measure: Callable[[Tensor, Tensor], Tensor], batch_size: int
) -> dict[str, float]:
    """Returns the loss over held-out windows, each observed value counting once."""
    like = next(model.parameters())
    total, count = 0.0, 0
    for past, future in windows.batches(MOST_VALIDATION_WINDOWS, batch_size):
        observed = int(future.isfinite().sum())
        total += float(measure(model(past.to(like)).cpu().double(), future.double())) * observed
        count += observed
    if count == 0:
        raise DataError("the held-out part has no observed value.", todo="a larger val_fraction")
    return {"score": total / count, "n": count}
