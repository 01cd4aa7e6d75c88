"""Quantization sensitivity: what a metric loses when all weights are rounded to few bits."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError, nearest
from madzoo.quantization.round_to_nearest import quantize, quantized_tensors

__all__ = ["METRICS", "SCHEMA", "Metric", "SensitivityEntry", "SensitivityReport", "sensitivity"]

SCHEMA = 1
Batch = tuple[Tensor, Tensor]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityEntry:
    """States the metric at one bit width.

    Attributes:
        bits: of every weight.
        value: the metric; None where the rounded model's answers are not finite.
        drop: how much worse than the unrounded model, positive when worse whatever the metric's direction.
        drop_standard_error: of the drop, from the paired difference per sample; None where samples overlap.
    """

    bits: int
    value: float | None
    drop: float | None
    drop_standard_error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityReport:
    """States what a metric loses when all weights of a network are rounded.

    Attributes:
        metric, higher_is_better: what was measured.
        reference, reference_standard_error: the metric of the unrounded model; None where samples overlap.
        n: number of samples.
        entries: one per bit width.
        policy: how weights were rounded; every floating parameter is.
        tensors, num_weights: how many were rounded.
        dataset, split, seed: where the samples come from.
        data_fingerprint, weights_sha256: hashes of the files behind the data and the model.
        seconds, threads, torch_version: what the measurement cost, and with what.
        schema: version of this record.
    """

    metric: str
    higher_is_better: bool
    reference: float
    reference_standard_error: float | None
    n: int
    entries: tuple[SensitivityEntry, ...]
    policy: str
    tensors: int
    num_weights: int
    dataset: str | None
    split: str | None
    seed: int | None
    data_fingerprint: str | None
    weights_sha256: str | None
    seconds: float
    threads: int
    torch_version: str
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self) | {"entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SensitivityReport":
        """Builds from JSON values.

        Raises:
            ConfigError: on another schema, or a missing or unknown key.
        """
        if values.get("schema") != SCHEMA:
            raise ConfigError(
                "unknown quantization schema.", asked=values.get("schema"), looked=SCHEMA, todo="upgrade madzoo"
            )
        try:
            entries = tuple(SensitivityEntry(**entry) for entry in values["entries"])
            return cls(**{**values, "entries": entries})
        except (TypeError, KeyError) as error:
            names = [f.name for f in fields(cls)]
            raise ConfigError(f"not a sensitivity report: {error}.", asked=sorted(values), looked=names) from error


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    bits: Sequence[int] = (8, 6, 4, 3, 2),
    metric: Metric | str,
    policy: str = "rtn",
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    data_fingerprint: str | None = None,
    weights_sha256: str | None = None,
) -> SensitivityReport:
    """Measures a metric after rounding all weights to each bit width, weights only, no retraining.

    Args:
        model: any module; it is copied, never changed.
        batches: (inputs, targets); read once per bit width and once for the reference (an iterator is kept in memory).
        bits: bit widths, 2 to 8.
        metric: a :class:`Metric`, or ``"top1"`` (logits and labels), ``"mse"`` (mean forecast) or ``"mae"`` (median).
        policy: see :func:`madzoo.quantization.quantize`.
        dataset, split, seed: where the samples come from, for the record.
        data_fingerprint, weights_sha256: hashes of the files behind the data and the model, for the record.

    Raises:
        ConfigError: on an unknown metric or policy, or bits outside 2 to 8.
        DataError: when there is no batch, or the unrounded model's metric is not finite.

    Cost: (len(bits) + 1) forward passes over the batches.
    """
    metric = _find_metric(metric)
    start = time.perf_counter()
    batches = list(batches) if isinstance(batches, Iterator) else batches
    exact = _scores(copy.deepcopy(model).eval(), batches, metric)
    if exact.numel() == 0 or not exact.isfinite().all():
        raise DataError(
            "the unrounded model has no finite score.", asked=metric.name, resolved=f"{exact.numel()} samples"
        )
    entries = [_entry(quantize(model, b, policy=policy), b, batches, metric, exact) for b in bits]
    weights = quantized_tensors(model).values()
    return SensitivityReport(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        reference=float(exact.mean()),
        reference_standard_error=_standard_error(exact, metric),
        n=exact.numel(),
        entries=tuple(entries),
        policy=policy,
        tensors=len(weights),
        num_weights=sum(p.numel() for p in weights),
        dataset=dataset,
        split=split,
        seed=seed,
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        seconds=round(time.perf_counter() - start, 3),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def _entry(rounded: nn.Module, bits: int, batches: Iterable[Batch], metric: Metric, exact: Tensor) -> SensitivityEntry:
    scores = _scores(rounded.eval(), batches, metric)
    loss = exact - scores if metric.higher_is_better else scores - exact
    return SensitivityEntry(
        bits=bits,
        value=_finite(scores.mean()),
        drop=_finite(loss.mean()),
        drop_standard_error=_standard_error(loss, metric),
    )


@torch.no_grad()
def _scores(model: nn.Module, batches: Iterable[Batch], metric: Metric) -> Tensor:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found = [metric.score(model(x.to(device)), y.to(device)).double().cpu() for x, y in batches]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _standard_error(scores: Tensor, metric: Metric) -> float | None:
    known = metric.independent and scores.numel() > 1
    return _finite(scores.std() / math.sqrt(scores.numel())) if known else None


def _finite(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None


def _find_metric(metric: Metric | str) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise ConfigError(
            f"unknown metric {metric!r}.", asked=metric, looked=", ".join(METRICS), todo=nearest(str(metric), METRICS)
        )
    return METRICS[metric]
