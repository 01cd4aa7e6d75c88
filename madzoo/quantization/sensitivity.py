"""Quantization sensitivity: what a metric and a loss lose when weights are rounded, all together and by groups."""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, check_choice
from madzoo.geometry.report import sample_sha256
from madzoo.quantization.group_sensitivity import measure_groups
from madzoo.quantization.groups import Groups, tensor_groups
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.prediction import Prediction
from madzoo.quantization.round_to_nearest import check_bits
from madzoo.quantization.scores import METRICS, Batch, Loss, Metric, Scores, find_metric
from madzoo.quantization.scores import standard_error as error_of
from madzoo.quantization.sensitivity_record import SCHEMA, PredictionSample, SensitivityEntry, SensitivityReport
from madzoo.quantization.whole_sensitivity import measure_whole, reference_scores

__all__ = ["METRICS", "SCHEMA", "Metric", "SensitivityEntry", "SensitivityReport", "sensitivity"]

POLICIES = ("rtn",)
GROUP_SAMPLES = 512


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    bits: Sequence[int] = (8, 6, 4, 3, 2),
    metric: Metric | str,
    loss_fn: Loss | None = None,
    policy: str = "rtn",
    groups: Groups | None = None,
    group_batches: Iterable[Batch] | None = None,
    prediction_batch: Batch | None = None,
    prediction_loss_fn: Loss | None = None,
    prediction_split: str | None = None,
    curvature_samples: int = 64,
    operator: str = "ggn",
    probes: int = 2,
    chunk_size: int = 32,
    dtype: torch.dtype = torch.float32,
    sequence_length: int | None = None,
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    data_fingerprint: str | None = None,
    weights_sha256: str | None = None,
) -> SensitivityReport:
    """Measures what rounding costs, weights only, no retraining: of the whole model, and of each group alone.

    A loss given, each group's change is measured in it too; a prediction batch given, it is predicted on that: by
    ``g . dw + dw . G dw / 2`` with one curvature-vector product per group and bit width, and by the mean curvature.

    Args:
        model: any module; it is copied, never changed.
        batches: (inputs, targets); read once per bit width and once for the reference (an iterator is kept in memory).
        bits: bit widths, 2 to 8.
        metric: a :class:`Metric`, or ``"top1"`` (logits and labels), ``"mse"`` (mean forecast) or ``"mae"`` (median).
        loss_fn: (outputs, targets) -> the mean over samples.
        policy: ``"rtn"``, round to nearest; see :func:`madzoo.quantization.quantize`.
        groups: name -> (kind, parameter names); by default :func:`tensor_groups`, and none where it is empty.
        group_batches: what groups are measured on; by default the first 512 samples of ``batches``.
        prediction_batch: (inputs, targets), best others than those of ``group_batches``; needs ``loss_fn``.
        prediction_loss_fn: what is differentiated twice, where ``loss_fn`` has kinks; see :class:`Prediction`.
        prediction_split: where that batch comes from, for the record.
        curvature_samples, operator, probes, chunk_size, dtype: see :class:`Prediction`.
        sequence_length: tokens that the model's scans see, for the record.
        dataset, split, seed: where the samples come from, for the record.
        data_fingerprint, weights_sha256: hashes of the files behind the data and the model, for the record.

    Raises:
        ConfigError: on an unknown metric or policy, no bits or bits outside 2 to 8, a model without parameters or
            under quantization-aware training, a group of unknown parameters, a prediction without a loss; and see
            :class:`Prediction`.
        DataError: when there is no batch, or the unrounded model's metric or loss is not finite.
        BackendError: when predicting a network of which an operator has no second derivative.

    Cost: ``len(bits) + 1`` forward passes over the batches, ``len(bits) * len(groups) + 1`` over the group batches,
    and ``len(bits) + probes`` curvature-vector products per group.

    Source: arXiv 1911.03852 (trace).
    """
    metric = find_metric(metric)
    check_choice("policy", policy, POLICIES)
    bits = _checked_bits(bits)
    weights = _checked_weights(model, groups)
    asked = None
    if prediction_batch is not None:
        asked = Prediction(
            batch=prediction_batch,
            loss_fn=_needed(loss_fn),
            curved_loss_fn=prediction_loss_fn,
            curvature_samples=curvature_samples,
            operator=operator,
            probes=probes,
            seed=seed or 0,
            chunk_size=chunk_size,
            dtype=dtype,
        )
    start = time.perf_counter()
    twin = copy.deepcopy(model).eval()
    batches = list(batches) if isinstance(batches, Iterator) else batches
    exact = reference_scores(twin, batches, metric, loss_fn)
    entries = [measure_whole(twin, b, batches, metric, loss_fn, exact) for b in bits]
    groups = tensor_groups(twin) if groups is None else groups
    few = list(_first(batches if group_batches is None else group_batches, GROUP_SAMPLES)) if groups else []
    found, ranking = (), ()
    if groups:
        found, ranking = measure_groups(twin, few, groups, bits=bits, metric=metric, loss_fn=loss_fn, prediction=asked)
    return SensitivityReport(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        **_whole(exact, metric),
        entries=tuple(entries),
        group_n=sum(len(x) for x, _ in few),
        groups=found,
        ranking=ranking,
        prediction=_sample(asked, few, prediction_split),
        policy=policy,
        **_described(weights, next(iter(batches))[0]),
        sequence_length=sequence_length,
        dataset=dataset,
        split=split,
        seed=seed,
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        seconds=round(time.perf_counter() - start, 3),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def _checked_bits(bits: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(bits, Sequence) or not bits:
        raise ConfigError("at least one bit width is measured.", asked=f"bits={bits!r}", todo="bits=(8, 4)")
    for width in bits:
        check_bits(width)
    return tuple(bits)


def _checked_weights(model: nn.Module, groups: Groups | None) -> dict[str, nn.Parameter]:
    weights = quantized_parameters(model)
    if not weights:
        raise ConfigError("the model has no parameter that can be rounded.", asked=type(model).__name__)
    for group, (_, names) in (groups or {}).items():
        if strange := [name for name in names if name not in weights]:
            raise ConfigError("a group names no parameter of the model.", asked=f"{group}: {', '.join(strange)}")
    return weights


def _needed(loss_fn: Loss | None) -> Loss:
    if loss_fn is None:
        why, todo = "what is predicted is the change of a loss.", "loss_fn=(outputs, targets) -> mean"
        raise ConfigError(why, asked="prediction_batch without loss_fn", todo=todo)
    return loss_fn


def _whole(exact: Scores, metric: Metric) -> dict[str, Any]:
    """What the report says of the unrounded model."""
    return {
        "reference": float(exact.metric.mean()),
        "reference_standard_error": error_of(exact.metric, independent=metric.independent),
        "reference_loss": None if exact.loss is None else float(exact.loss.mean()),
        "n": exact.metric.numel(),
    }


def _described(weights: Mapping[str, nn.Parameter], inputs: Tensor) -> dict[str, Any]:
    """What the report says of the weights and of one sample."""
    return {
        "tensors": len(weights),
        "num_weights": sum(p.numel() for p in weights.values()),
        "dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
        "sample_shape": tuple(inputs.shape[1:]),
    }


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    for x, y in batches:
        if count <= 0:
            return
        yield x[:count], y[:count]
        count -= len(x)


def _sample(asked: Prediction | None, measured: Sequence[Batch], split: str | None) -> PredictionSample | None:
    if asked is None:
        return None
    seen = {sample_sha256(x) for inputs, _ in measured for x in inputs}
    inputs = asked.batch[0]
    return PredictionSample(
        split=split,
        n=len(inputs),
        curvature_n=min(len(inputs), asked.curvature_samples),
        operator=asked.operator,
        probes=asked.probes,
        dtype=str(asked.dtype).removeprefix("torch."),
        sample_sha256=sample_sha256(inputs),
        disjoint=not any(sample_sha256(x) in seen for x in inputs),
    )
