"""Groups rounded one at a time: measured on samples, predicted from derivatives, and how well the two agree."""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from madzoo.quantization.groups import Groups
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.prediction import Predicted, Prediction, mean_gradient, predict_changes
from madzoo.quantization.rank_correlation import spearman
from madzoo.quantization.replaced import replaced
from madzoo.quantization.round_to_nearest import round_to_nearest
from madzoo.quantization.scores import Batch, Loss, Metric, Scores, mean_or_none, score, standard_error
from madzoo.quantization.sensitivity_record import GroupEntry, GroupSensitivity, RankAgreement

__all__ = ["measure_groups", "rounded_tensors"]

HALVES = 2


def rounded_tensors(model: nn.Module, names: Iterable[str], bits: int) -> dict[str, Tensor]:
    """Returns some parameters of a model rounded to a bit width, the model left as it is."""
    parameters = quantized_parameters(model)
    return {name: round_to_nearest(parameters[name].detach(), bits) for name in names}


def measure_groups(
    model: nn.Module,
    batches: Sequence[Batch],
    groups: Groups,
    *,
    bits: Sequence[int],
    metric: Metric,
    loss_fn: Loss | None,
    prediction: Prediction | None,
) -> tuple[tuple[GroupSensitivity, ...], tuple[RankAgreement, ...]]:
    """Rounds each group alone to each bit width, and ranks what was predicted against what was measured.

    Args:
        model: in the mode it is to be measured in; its weights are replaced for a while and put back.
        batches: read once for the reference and once per group and bit width.
        groups: see :func:`tensor_groups`.
        bits, metric, loss_fn: as :func:`madzoo.quantization.sensitivity`.
        prediction: None measures only.

    Cost: ``len(groups) * len(bits) + 1`` passes over the batches, and :func:`predict_changes` per group.
    """
    exact = score(model, batches, metric=metric, loss_fn=loss_fn)
    gradient = {} if prediction is None else mean_gradient(model, prediction)
    found, halves = [], []
    for name, (kind, names) in groups.items():
        steps = [_step(model, names, b) for b in bits]
        told = _predictions(model, steps, prediction, gradient)
        entries = []
        for b, step, guess in zip(bits, steps, told, strict=True):
            with replaced(model, rounded_tensors(model, names, b)):
                scores = score(model, batches, metric=metric, loss_fn=loss_fn)
            signal = _decibels([p for n, p in quantized_parameters(model).items() if n in names], step)
            entries.append(_entry(b, scores, exact, guess, signal, independent=metric.independent))
            halves.append(_halves(scores, exact))
        params = sum(change.numel() for change in steps[0].values())
        found.append(GroupSensitivity(name=name, kind=kind, params=params, tensors=names, entries=tuple(entries)))
    ranking = [_agreement(found, halves, k, b) for k, b in enumerate(bits)] if prediction and found else []
    return tuple(found), tuple(ranking)


def _step(model: nn.Module, names: Sequence[str], bits: int) -> dict[str, Tensor]:
    parameters = quantized_parameters(model)
    return {n: w - parameters[n].detach() for n, w in rounded_tensors(model, names, bits).items()}


def _predictions(
    model: nn.Module,
    steps: Sequence[Mapping[str, Tensor]],
    asked: Prediction | None,
    gradient: Mapping[str, Tensor],
) -> Sequence[Predicted | None]:
    if asked is None:
        return [None] * len(steps)
    return predict_changes(model, asked, gradient=gradient, changes=steps)


def _entry(
    bits: int, scores: Scores, exact: Scores, guess: Predicted | None, signal: float | None, *, independent: bool
) -> GroupEntry:
    moved = scores.metric - exact.metric
    rise = None if scores.loss is None or exact.loss is None else scores.loss - exact.loss
    return GroupEntry(
        bits=bits,
        delta_loss=None if rise is None else _short(mean_or_none(rise)),
        delta_loss_standard_error=None if rise is None else _short(standard_error(rise, independent=independent)),
        delta_metric=_short(mean_or_none(moved)),
        delta_metric_standard_error=_short(standard_error(moved, independent=independent)),
        predicted_quadratic=None if guess is None else _short(guess.quadratic),
        predicted_trace=None if guess is None else _short(guess.trace),
        sqnr_db=_short(signal),
    )


def _decibels(weights: Sequence[Tensor], step: Mapping[str, Tensor]) -> float | None:
    signal = sum(float(w.detach().abs().double().square().sum()) for w in weights)
    noise = sum(float(dw.abs().double().square().sum()) for dw in step.values())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _halves(scores: Scores, exact: Scores) -> list[float | None]:
    if scores.loss is None or exact.loss is None:
        return [None] * HALVES
    rise = scores.loss - exact.loss
    return [mean_or_none(rise[k::HALVES]) if len(rise) > k else None for k in range(HALVES)]


def _agreement(
    groups: Sequence[GroupSensitivity], halves: Sequence[Sequence[float | None]], number: int, bits: int
) -> RankAgreement:
    entries = [group.entries[number] for group in groups]
    measured = [entry.delta_loss for entry in entries]
    first, second = zip(*halves[number :: len(groups[0].entries)], strict=True)
    return RankAgreement(
        bits=bits,
        spearman=spearman([entry.predicted_quadratic for entry in entries], measured),
        spearman_trace=spearman([entry.predicted_trace for entry in entries], measured),
        between_halves=spearman(first, second),
    )


def _short(value: float | None) -> float | None:
    """Keeps six digits: a sampled number has no more, and a card holds hundreds."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
