"""All weights rounded together: the scores of the unrounded model, and what they lose at a bit width."""

from collections.abc import Iterable

from torch import nn

from madzoo.errors import DataError
from madzoo.quantization.group_sensitivity import rounded_tensors
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.replaced import replaced
from madzoo.quantization.scores import Batch, Loss, Metric, Scores, mean_or_none, score
from madzoo.quantization.scores import standard_error as error_of
from madzoo.quantization.sensitivity_record import SensitivityEntry

__all__ = ["measure_whole", "reference_scores"]


def reference_scores(model: nn.Module, batches: Iterable[Batch], metric: Metric, loss_fn: Loss | None) -> Scores:
    """Scores the unrounded model.

    Raises:
        DataError: when there is no sample, or a score is not finite.
    """
    exact = score(model, batches, metric=metric, loss_fn=loss_fn)
    for name, values in ((metric.name, exact.metric), ("loss", exact.loss)):
        if values is not None and (values.numel() == 0 or not values.isfinite().all()):
            raise DataError(
                "the unrounded model has no finite score.", asked=name, resolved=f"{values.numel()} samples"
            )
    return exact


def measure_whole(
    model: nn.Module, bits: int, batches: Iterable[Batch], metric: Metric, loss_fn: Loss | None, exact: Scores
) -> SensitivityEntry:
    """Rounds every parameter to a bit width for a while, and compares with the unrounded scores sample by sample."""
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
