"""Scores of a model sample by sample: a metric and a loss, and what a change of them is worth.

Legend: n samples, B of a batch, K classes, H horizon, C channels, Q quantile levels.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest

__all__ = ["METRICS", "Batch", "Loss", "Metric", "Scores", "find_metric", "mean_or_none", "score", "standard_error"]

Batch = tuple[Tensor, Tensor]
# loss_fn(outputs, targets) -> the mean over samples, a scalar.
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """Scores a model as the mean of one number per sample.

    Attributes:
        name: what a card calls it.
        higher_is_better: whether a fall of the metric is a loss.
        score: ``(the model's output, targets) -> [B]``.
        independent: whether samples are independent, so that their mean has a standard error; the overlapping
            windows of one time series are not.
    """

    name: str
    higher_is_better: bool
    score: Callable[[Tensor, Tensor], Tensor]
    independent: bool = True


def _is_top1(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return logits_BK.argmax(-1) == labels_B


def _squared_error_of_mean(quantiles_BHCQ: Tensor, future_BHC: Tensor) -> Tensor:
    return (quantiles_BHCQ.mean(-1) - future_BHC).square().flatten(1).nanmean(1)


def _absolute_error_of_median(quantiles_BHCQ: Tensor, future_BHC: Tensor) -> Tensor:
    return (quantiles_BHCQ[..., quantiles_BHCQ.shape[-1] // 2] - future_BHC).abs().flatten(1).nanmean(1)


METRICS = {
    "top1": Metric(name="top1", higher_is_better=True, score=_is_top1),
    "mse": Metric(name="mse", higher_is_better=False, score=_squared_error_of_mean, independent=False),
    "mae": Metric(name="mae", higher_is_better=False, score=_absolute_error_of_median, independent=False),
}


def find_metric(metric: Metric | str) -> Metric:
    """Returns a metric, looked up where it is given by name.

    Raises:
        ConfigError: on an unknown name.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in list(METRICS):  # a list: what cannot be hashed is unknown too
        raise ConfigError(
            f"unknown metric {metric!r}.", asked=metric, looked=", ".join(METRICS), todo=nearest(metric, METRICS)
        )
    return METRICS[metric]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Holds float64 scores [n] per sample; ``loss`` is None where no loss was asked for."""

    metric: Tensor
    loss: Tensor | None


@torch.inference_mode()
def score(model: nn.Module, batches: Iterable[Batch], *, metric: Metric, loss_fn: Loss | None) -> Scores:
    """Runs a model, in the mode it is in, over batches; returns the metric and the loss of every sample.

    The loss is a function of a batch's mean, so it is called sample by sample: paired differences need each one's.

    Cost: one forward per batch, and one call of the loss per sample.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found, losses = [], []
    for x, y in batches:
        output, targets = model(x.to(device)), y.to(device)
        found.append(metric.score(output, targets).double().cpu())
        if loss_fn is not None:
            each = [loss_fn(output[k : k + 1], targets[k : k + 1]) for k in range(len(x))]
            losses.append(torch.stack(each).double().cpu())
    return Scores(metric=_joined(found), loss=None if loss_fn is None else _joined(losses))


def mean_or_none(values: Tensor) -> float | None:
    """Returns the mean, None where it is not finite."""
    return _finite(values.mean())


def standard_error(values: Tensor, *, independent: bool) -> float | None:
    """Returns the standard error of the mean of samples; None where they are not independent, or fewer than two."""
    return _finite(values.std() / math.sqrt(values.numel())) if independent and values.numel() > 1 else None


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _finite(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None
