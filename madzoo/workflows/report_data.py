"""The samples a checkpoint's reports are measured on: a few for geometry, more for quantization.

Axes: n samples, L context, H horizon, C channels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from madzoo.data.catalog import DatasetSpec, find_dataset
from madzoo.data.images import image_batches
from madzoo.data.load import load_image_split
from madzoo.data.series_steps import SyntheticSteps, generator_and_recordings
from madzoo.data.windows import Borders, split_windows
from madzoo.errors import ConfigError
from madzoo.geometry.jacobian import count_parameters
from madzoo.geometry.report import sample_sha256
from madzoo.quantization.scores import METRICS, Metric
from madzoo.training.losses import cross_entropy, pinball
from madzoo.training.smooth_pinball import smooth_pinball
from madzoo.workflows.training_task import VALIDATION_SEED, table_values

__all__ = ["ReportData", "check_task", "count_tokens", "load_report_data"]

METRIC_SAMPLES = 2000
GROUP_SAMPLES = 512
PREDICTION_SAMPLES = 2048  # of the gradient; the curvature takes the first few of them
GEOMETRY_SAMPLES = 16
CURVATURE_SAMPLES = 8
JACOBIAN_BYTES = 2**30  # what several samples, or all quantiles of one forecast, may take
LARGEST_JACOBIAN = 2**34  # what one sample may take; beyond, a machine would swap for hours


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Holds the samples and what identifies them.

    Attributes:
        dataset, split, seed: where they come from.
        fingerprint: hash of the whole split they were drawn from.
        sample: inputs for the local dimension, [n, ...].
        output: what is differentiated there.
        curvature_batch: (inputs, targets) whose mean loss is differentiated twice, the sample's and more.
        loss: (outputs, targets) -> that mean: cross-entropy, or the pinball loss of all quantiles.
        prediction_loss: the same, its kinks smoothed.
        batches: (inputs, targets) for quantization.
        group_batches: for groups of tensors one by one, which take the first 512; single channels where a model reads
            each alone.
        prediction_batch, prediction_split: other samples, by which the groups' losses are predicted, and their split.
        metric: what is measured there.
    """

    dataset: str
    split: str
    seed: int
    fingerprint: str
    sample: Tensor
    output: str
    curvature_batch: tuple[Tensor, Tensor]
    loss: Callable[[Any, Tensor], Tensor]
    prediction_loss: Callable[[Any, Tensor], Tensor]
    batches: Sequence[tuple[Tensor, Tensor]]
    group_batches: Sequence[tuple[Tensor, Tensor]]
    prediction_batch: tuple[Tensor, Tensor]
    prediction_split: str
    metric: Metric | str


def load_report_data(
    model: nn.Module, dataset: str, *, split: str, seed: int, folder: Path | str | None = None
) -> ReportData:
    """Draws, with a seed, the samples of a split on which a model's reports are measured.

    Images: up to 16 for geometry, 2,000 for quantization. Windows: single channels for geometry, whole windows for
    quantization, z-scored. Geometry gets fewer samples where its Jacobian would pass 1 GiB, never fewer than one; and
    of a forecaster whose quantiles of one sample would pass that it takes the median alone. Curvature gets up to 8.
    Groups of tensors are rounded on 512 of quantization's samples, and predicted by up to 2,048 others: images of the
    same split, windows of the training rows (of validation, where the reports are on training), further synthetic
    series.

    Raises:
        ConfigError: when the data set is unknown, or not for this model, or one sample's Jacobian would pass 16 GiB.
        DataError: when the data cannot be read.
    """
    draw = np.random.default_rng(seed)
    generator, _ = generator_and_recordings(dataset)
    if generator is not None:
        return _synthetic(model, generator, split=split, seed=seed)
    spec = find_dataset(dataset)
    check_task(model, spec)
    named = {"dataset": dataset, "split": split, "seed": seed}
    if spec.task == "image-classification":
        return _images(model, spec, draw, folder, named)
    return _windows(model, spec, draw, folder, named)


def check_task(model: Any, spec: DatasetSpec) -> None:
    """Checks that a model can read a data set and answer in its classes.

    Raises:
        ConfigError: when it cannot.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    told: dict[str, tuple[Any, Any]] = {"task": (getattr(model, "task", None), spec.task)}
    if spec.task == "image-classification":
        told["images"] = (tuple(cfg.get("input_size") or ()), (spec.channels, spec.image_size, spec.image_size))
        told["classes"] = (getattr(model, "num_classes", None), spec.num_classes)
    for what, (of_model, of_data) in told.items():
        if of_model != of_data:
            raise ConfigError(
                f"the model is not for {spec.name}: its {what} do not fit.",
                asked=f"{getattr(model, 'madzoo_name', type(model).__name__)} on {spec.name}",
                resolved=f"{what}: model {of_model}, data {of_data}",
            )


def count_tokens(model: Any) -> int | None:
    """Returns how many tokens a model's first scan sees of one input, None where the model does not say.

    A forecaster's configuration says so; an image model's first stage says how much smaller than the image it is.
    """
    if (stated := getattr(getattr(model, "config", None), "num_tokens", None)) is not None:
        return int(stated)
    stages, cfg = getattr(model, "feature_info", None), getattr(model, "pretrained_cfg", None) or {}
    if not stages or not cfg.get("input_size"):
        return None
    _, height, width = cfg["input_size"]
    return (height // stages[0]["reduction"]) * (width // stages[0]["reduction"])


def _images(
    model: Any, spec: DatasetSpec, draw: np.random.Generator, folder: Path | str | None, named: dict[str, Any]
) -> ReportData:
    data = load_image_split(spec, named["split"], folder=folder)
    order = draw.permutation(len(data))
    pixels = {key: tuple(model.pretrained_cfg[key]) for key in ("mean", "std")}
    eight = data.take(np.sort(order[:CURVATURE_SAMPLES]))
    few = data.take(np.sort(order[: _sample_count(model, spec.num_classes)]))
    many = data.take(np.sort(order[:METRIC_SAMPLES]))
    measured, others = order[:GROUP_SAMPLES], order[GROUP_SAMPLES:][-PREDICTION_SAMPLES:]
    for_groups, for_prediction = data.take(measured), data.take(others)  # in random order: the first few are taken
    return ReportData(
        **named,
        fingerprint=data.fingerprint(),
        sample=next(image_batches(few, **pixels, batch_size=len(few)))[0],
        output="logits",
        curvature_batch=next(image_batches(eight, **pixels, batch_size=len(eight))),
        loss=cross_entropy,
        prediction_loss=cross_entropy,
        batches=list(image_batches(many, **pixels, batch_size=250)),
        group_batches=list(image_batches(for_groups, **pixels, batch_size=128)),
        prediction_batch=next(image_batches(for_prediction, **pixels, batch_size=len(for_prediction))),
        prediction_split=named["split"],
        metric="top1",
    )


def _windows(
    model: Any, spec: DatasetSpec, draw: np.random.Generator, folder: Path | str | None, named: dict[str, Any]
) -> ReportData:
    values = table_values(spec, folder)
    lengths = {"context_length": model.context_length, "prediction_length": model.prediction_length}
    borders = spec.borders or Borders.from_ratio(len(values))
    windows = split_windows(values, borders, named["split"], **lengths)
    order = torch.from_numpy(draw.permutation(len(windows)))
    output, rows = _forecast_rows(model)
    past, future = _few_channels(model, windows[order[:CURVATURE_SAMPLES]], draw)
    many = order[:METRIC_SAMPLES].sort().values
    aside = np.random.default_rng([named["seed"], 1])  # so that what geometry draws stays what it was
    measured = _few_channels(model, windows[order[:GROUP_SAMPLES]], aside)
    elsewhere = "validation" if named["split"] == "train" else "train"
    others = split_windows(values, borders, elsewhere, **lengths)
    chosen = torch.from_numpy(aside.permutation(len(others))[:PREDICTION_SAMPLES])
    return ReportData(
        **named,
        fingerprint=sample_sha256(values),
        sample=past[: _sample_count(model, rows)],
        output=output,
        curvature_batch=(past, future),
        loss=_pinball_of(model),
        prediction_loss=_pinball_of(model, smooth=True),
        batches=[windows[part] for part in many.split(64)],
        group_batches=list(zip(*(x.split(64) for x in measured), strict=True)),
        prediction_batch=_few_channels(model, others[chosen], aside),
        prediction_split=elsewhere,
        metric="mse",
    )


def _few_channels(model: Any, windows: tuple[Tensor, Tensor], draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draws one channel of each window for a model that reads every channel alone."""
    if model.num_channels is not None:
        return windows
    past, future = windows
    channel = torch.from_numpy(draw.integers(past.shape[2], size=len(past))).view(-1, 1, 1)
    return past.gather(2, channel.expand(-1, past.shape[1], 1)), future.gather(
        2, channel.expand(-1, future.shape[1], 1)
    )


def _synthetic(model: Any, dataset: str, *, split: str, seed: int) -> ReportData:
    if getattr(model, "task", None) != "time-series-forecasting" or split != "validation":
        raise ConfigError("synthetic series are for forecasters, split validation.", asked=f"split {split}")
    lengths = {"context_length": model.context_length, "prediction_length": model.prediction_length}
    series = SyntheticSteps(dataset, **lengths, batch_size=250, steps_per_epoch=1, seed=VALIDATION_SEED + seed)
    batches = [series[step] for step in range(METRIC_SAMPLES // 250)]
    others = [series[len(batches) + step] for step in range(-(-PREDICTION_SAMPLES // 250))]
    mixed = torch.randperm(250 * len(others), generator=torch.Generator().manual_seed(seed))[:PREDICTION_SAMPLES]
    aside = tuple(torch.cat(parts)[mixed] for parts in zip(*others, strict=True))
    output, rows = _forecast_rows(model)
    return ReportData(
        dataset=dataset,
        split=split,
        seed=seed,
        fingerprint=sample_sha256(torch.cat([past.nan_to_num(0.0) for past, _ in batches])),
        sample=batches[0][0][: _sample_count(model, rows)],
        output=output,
        curvature_batch=(batches[0][0][:CURVATURE_SAMPLES], batches[0][1][:CURVATURE_SAMPLES]),
        loss=_pinball_of(model),
        prediction_loss=_pinball_of(model, smooth=True),
        batches=batches,
        group_batches=batches,
        prediction_batch=(aside[0], aside[1]),
        prediction_split=split,
        # Unlike windows of one table, synthetic series are drawn one by one: their mean has a standard error.
        metric=dataclasses.replace(METRICS["mae"], independent=True),
    )


def _forecast_rows(model: Any) -> tuple[str, int]:
    """What of a forecast is differentiated, and how many rows a sample gives."""
    steps, levels = model.prediction_length * (model.num_channels or 1), len(model.quantile_levels)
    whole = 8 * steps * levels * max(count_parameters(model), 1) <= JACOBIAN_BYTES
    return ("forecast", steps * levels) if whole else ("median", steps)


def _pinball_of(model: Any, *, smooth: bool = False) -> Callable[[Any, Tensor], Tensor]:
    levels, loss = tuple(model.quantile_levels), smooth_pinball if smooth else pinball
    return lambda quantiles, target: loss(quantiles, target.to(quantiles.dtype), levels)


def _sample_count(model: nn.Module, rows_per_sample: int) -> int:
    size = 8 * rows_per_sample * max(count_parameters(model), 1)
    if size > LARGEST_JACOBIAN:
        raise ConfigError(
            "the model is too large for a dense Jacobian of even one sample.",
            asked=f"{rows_per_sample:,} rows of {count_parameters(model):,} parameters in float64",
            resolved=f"{size / 2**30:.0f} GiB, of {LARGEST_JACOBIAN / 2**30:.0f} allowed",
            todo="madzoo.geometry.local_dimension on a smaller model, or on fewer outputs",
        )
    return max(1, min(GEOMETRY_SAMPLES, JACOBIAN_BYTES // size))
