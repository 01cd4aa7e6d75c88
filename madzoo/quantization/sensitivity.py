"""Quantization sensitivity: what a metric and a loss lose when weights are rounded, all together and by groups."""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from madzoo.errors import DataError, check_choice
from madzoo.geometry.report import sample_sha256
from madzoo.quantization.group_sensitivity import measure_groups, rounded_tensors
from madzoo.quantization.groups import Groups, tensor_groups
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.prediction import Prediction
from madzoo.quantization.replaced import replaced
from madzoo.quantization.scores import METRICS, Batch, Loss, Metric, Scores, find_metric, mean_or_none, score
from madzoo.quantization.scores import standard_error as error_of
from madzoo.quantization.sensitivity_record import SCHEMA, PredictionSample, SensitivityEntry, SensitivityReport

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
        ConfigError: on an unknown metric or policy, or bits outside 2 to 8.
        DataError: when there is no batch, or the unrounded model's metric or loss is not finite.
        BackendError: when predicting a network of which an operator has no second derivative.

    Cost: ``len(bits) + 1`` forward passes over the batches, ``len(bits) * len(groups) + 1`` over the group batches,
    and ``len(bits) + probes`` curvature-vector products per group.

    Source: arXiv 1911.03852 (trace).
    """
    metric = find_metric(metric)
    check_choice("policy", policy, POLICIES)
    start = time.perf_counter()
    twin = copy.deepcopy(model).eval()
    batches = list(batches) if isinstance(batches, Iterator) else batches
    exact = _reference(twin, batches, metric, loss_fn)
    entries = [_entry(twin, b, batches, metric, loss_fn, exact) for b in bits]
    groups = tensor_groups(twin) if groups is None else groups
    few = list(_first(batches if group_batches is None else group_batches, GROUP_SAMPLES)) if groups else []
    asked = None
    if prediction_batch is not None and loss_fn is not None:
        asked = Prediction(
            batch=prediction_batch,
            loss_fn=loss_fn,
            curved_loss_fn=prediction_loss_fn,
            curvature_samples=curvature_samples,
            operator=operator,
            probes=probes,
            seed=seed or 0,
            chunk_size=chunk_size,
            dtype=dtype,
        )
    found, ranking = (), ()
    if groups:
        found, ranking = measure_groups(twin, few, groups, bits=bits, metric=metric, loss_fn=loss_fn, prediction=asked)
    weights = quantized_parameters(twin).values()
    first = next(iter(batches))[0]
    return SensitivityReport(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        reference=float(exact.metric.mean()),
        reference_standard_error=error_of(exact.metric, independent=metric.independent),
        reference_loss=None if exact.loss is None else float(exact.loss.mean()),
        n=exact.metric.numel(),
        entries=tuple(entries),
        group_n=sum(len(x) for x, _ in few),
        groups=found,
        ranking=ranking,
        prediction=_sample(asked, few, prediction_split),
        policy=policy,
        tensors=len(weights),
        num_weights=sum(p.numel() for p in weights),
        sample_shape=tuple(first.shape[1:]),
        sequence_length=sequence_length,
        dtype=str(next(iter(weights)).dtype).removeprefix("torch."),
        dataset=dataset,
        split=split,
        seed=seed,
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        seconds=round(time.perf_counter() - start, 3),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def _reference(model: nn.Module, batches: Iterable[Batch], metric: Metric, loss_fn: Loss | None) -> Scores:
    exact = score(model, batches, metric=metric, loss_fn=loss_fn)
    for name, values in ((metric.name, exact.metric), ("loss", exact.loss)):
        if values is not None and (values.numel() == 0 or not values.isfinite().all()):
            raise DataError(
                "the unrounded model has no finite score.", asked=name, resolved=f"{values.numel()} samples"
            )
    return exact


def _entry(
    model: nn.Module, bits: int, batches: Iterable[Batch], metric: Metric, loss_fn: Loss | None, exact: Scores
) -> SensitivityEntry:
    with replaced(model, rounded_tensors(model, quantized_parameters(model), bits)):
        scores = score(model, batches, metric=metric, loss_fn=loss_fn)
    worse = exact.metric - scores.metric if metric.higher_is_better else scores.metric - exact.metric
    rise = None if scores.loss is None or exact.loss is None else scores.loss - exact.loss
    return SensitivityEntry(
        bits=bits,
        value=mean_or_none(scores.metric),
        drop=mean_or_none(worse),
        drop_standard_error=error_of(worse, independent=metric.independent),
        delta_loss=None if rise is None else mean_or_none(rise),
        delta_loss_standard_error=None if rise is None else error_of(rise, independent=metric.independent),
    )


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
