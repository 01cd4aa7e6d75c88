"""What a card says of sensitivity to rounding: the whole model by bits, its groups of tensors at four, predictions."""

from madzoo.checkpoint.card_records import CardRecords
from madzoo.checkpoint.card_sensitivity_record import Quantization, RoundedGroup
from madzoo.checkpoint.card_text import LABELS, number, samples, show, table

__all__ = ["QUANTIZATION_PLOT", "SHOWN_BITS", "sensitivity_text"]

QUANTIZATION_PLOT = "quantization.png"
SHOWN_BITS = 4  # of the table of groups; the report file has all
NO_ERROR = "The windows of one series overlap, so no standard error is given."


def sensitivity_text(records: CardRecords) -> str:
    """Tabulates metric and loss after rounding all weights, and the loss after rounding each group alone."""
    if (report := records.quantization) is None:
        return "Not measured yet."
    parts = [_method(report), _whole(report)]
    if any(_at(group.entries) for group in report.groups):
        parts += [_group_text(report), _group_table(report), _agreement(report)]
    if QUANTIZATION_PLOT in records.plots:
        parts.append(f"![{LABELS.get(report.metric, report.metric)} against bits]({QUANTIZATION_PLOT})")
    return "\n\n".join(part for part in parts if part)


def _method(report: Quantization) -> str:
    label = LABELS.get(report.metric, report.metric)
    seed = "" if report.seed is None else f", drawn with seed {report.seed}"
    paired = any(entry.drop_standard_error is not None for entry in report.entries)
    return (
        f"{label} after rounding every weight ({report.tensors} tensors, norms and biases too; symmetric, one scale "
        "per output channel, nothing retrained, activations left as they are), "
        f"on {samples(report.n)} of {report.dataset} ({report.split}{seed}). "
        + ("± is one standard error of the paired difference." if paired else NO_ERROR)
    )


def _whole(report: Quantization) -> str:
    name, with_loss = report.metric, report.reference_loss is not None
    heads = ["drop", "mean loss", "rise"] if with_loss else ["loss against float32"]
    lines = [["bits", LABELS.get(name, name), *heads]]
    lines.append(["32", show(name, report.reference), "", *([number(report.reference_loss), ""] if with_loss else [])])
    for entry in report.entries:
        drop = show(name, entry.drop) + _error(show(name, entry.drop_standard_error), entry.drop_standard_error)
        line = [str(entry.bits), show(name, entry.value), drop]
        if with_loss and report.reference_loss is not None:
            loss = None if entry.delta_loss is None else report.reference_loss + entry.delta_loss
            error = _error(number(entry.delta_loss_standard_error), entry.delta_loss_standard_error)
            line += [number(loss), number(entry.delta_loss) + error]
        lines.append(line)
    return table(lines)


def _group_text(report: Quantization) -> str:
    told, guess = report.prediction, ""
    if told is not None:
        name = {"ggn": "Gauss-Newton matrix", "hessian": "Hessian"}[told.operator]
        guess = (
            f" Predicted: g·Δw + ½ Δw·GΔw, with the gradient g ({samples(told.n)} of the part {told.split}) and the "
            f"{name} G (the first {told.curvature_n:,}) of the loss at the unrounded weights; none of these samples is "
            "among the measured."
        )
    return (
        f"One group of tensors rounded to {SHOWN_BITS} bits, all others left as they are: what the mean loss gains on "
        f"{samples(report.group_n)}.{guess} SQNR: signal to rounding noise."
    )


def _group_table(report: Quantization) -> str:
    lines = [["group", "parameters", "loss, measured", "loss, predicted", "SQNR (dB)"]]
    found = [(group, entry) for group in report.groups if (entry := _at(group.entries))]
    for group, entry in sorted(found, key=lambda pair: -(pair[1].delta_loss or 0.0)):
        error = _error(f"{entry.delta_loss_standard_error or 0:.1g}", entry.delta_loss_standard_error)
        signal = "-" if entry.sqnr_db is None else f"{entry.sqnr_db:.1f}"
        measured, predicted = (_signed(value) for value in (entry.delta_loss, entry.predicted_quadratic))
        lines.append([f"`{group.name}`", f"{group.params:,}", measured + error, predicted, signal])
    return table(lines)


def _agreement(report: Quantization) -> str:
    told = {rank.bits: rank for rank in report.ranking}
    if (rank := told.get(SHOWN_BITS)) is None or rank.spearman is None:
        return ""
    others = ", ".join(f"{r.spearman:.2f} at {r.bits}" for r in report.ranking if r.spearman is not None)
    halves = "" if rank.between_halves is None else f" Half of the samples against the other: {rank.between_halves:.2f}"
    trace = "" if rank.spearman_trace is None else f"; by the mean curvature instead: {rank.spearman_trace:.2f}"
    return (
        f"Rank correlation (Spearman) of predicted and measured over the {len(report.groups)} groups: {others} bits."
        f"{halves}{trace} (both at {SHOWN_BITS} bits)."
    )


def _at(entries: tuple[RoundedGroup, ...]) -> RoundedGroup | None:
    return next((entry for entry in entries if entry.bits == SHOWN_BITS), None)


def _error(text: str, value: float | None) -> str:
    return "" if value is None else f" ± {text}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2g}"
