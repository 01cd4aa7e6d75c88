"""The plots of a card: the singular values of its Jacobian, and what the metric loses as bits are taken away."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from madzoo.checkpoint.card_blocks import GEOMETRY_PLOT, QUANTIZATION_PLOT
from madzoo.checkpoint.card_sensitivity import SHOWN_BITS
from madzoo.checkpoint.weights import atomic_path
from madzoo.geometry import GeometryReport
from madzoo.quantization import SensitivityReport
from madzoo.quantization.sensitivity_record import GroupEntry

__all__ = ["plot_sensitivity", "plot_spectrum"]


def plot_spectrum(report: GeometryReport, folder: Path) -> Path | None:
    """Draws the singular values of the Jacobian; returns the PNG's path, None where all are zero.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    points = [(k, sigma) for k, sigma in report.spectrum if sigma > 0]
    if not points:
        return None
    figure = Figure(figsize=(4.5, 2.7), dpi=80, layout="constrained")
    axes = figure.subplots()
    axes.loglog(*zip(*points, strict=True), ".-", color="C0", label="singular values")
    threshold = report.local_dimension.rtol * points[0][1]
    if points[-1][1] < 1e4 * threshold:
        axes.axhline(threshold, color="0.6", linewidth=1, label="threshold of the rank")
        axes.legend(frameon=False)
    axes.set(xlabel=f"number, of {report.local_dimension.rows} rows", ylabel=f"singular value, {report.n} samples")
    path = folder / GEOMETRY_PLOT
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path


def plot_sensitivity(report: SensitivityReport, folder: Path) -> Path:
    """Draws the metric against bits, beside it what each group alone costs at four; returns the PNG's path.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    groups = _by_rise(report)
    figure = Figure(figsize=(8, 3) if groups else (5, 3), dpi=80, layout="constrained")
    panels = figure.subplots(1, 2 if groups else 1, squeeze=False)[0]
    _draw_curve(report, panels[0])
    if groups:
        _draw_groups(groups, panels[1])
    path = folder / QUANTIZATION_PLOT
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path


def _draw_curve(report: SensitivityReport, axes: Axes) -> None:
    known = {entry.bits: entry.value for entry in report.entries if entry.value is not None}
    axes.axhline(report.reference, color="0.6", linewidth=1, label="float32")
    axes.plot(list(known), list(known.values()), "o-", color="C0", label="rounded")
    if not report.higher_is_better:
        axes.set_yscale("log")
    axes.set(xlabel="bits of every weight", ylabel=report.metric, xticks=[entry.bits for entry in report.entries])
    axes.invert_xaxis()
    axes.legend(frameon=False)


def _draw_groups(groups: dict[str, GroupEntry], axes: Axes) -> None:
    """Bars of what was measured, with its error where known, and points of what was predicted."""
    entries, places = list(groups.values()), range(len(groups))
    errors = [entry.delta_loss_standard_error or 0.0 for entry in entries]
    axes.barh(
        places, [entry.delta_loss or 0.0 for entry in entries], xerr=errors, color="C0", ecolor="0.4", label="measured"
    )
    told = {k: e.predicted_quadratic for k, e in enumerate(entries) if e.predicted_quadratic is not None}
    if told:
        axes.plot(list(told.values()), list(told), "D", color="C1", markersize=4, label="predicted")
    axes.axvline(0, color="0.6", linewidth=1)
    # One group often rises a hundred times as much as the next: logarithmic, but near 0.
    largest = max(abs(entry.delta_loss or 0.0) for entry in entries)
    axes.set_xscale("symlog", linthresh=10.0 ** (math.floor(math.log10(largest)) - 1) if largest else 1.0)
    axes.minorticks_off()
    axes.set_yticks(places, list(groups), fontsize=8)
    axes.set(xlabel=f"rise of the loss, one group at {SHOWN_BITS} bits")
    axes.legend(frameon=False)


def _by_rise(report: SensitivityReport) -> dict[str, GroupEntry]:
    """The groups whose loss was measured at the shown bits, the largest rise last, so on top."""
    found = {group.name: entry for group in report.groups if (entry := group.at(SHOWN_BITS))}
    known = {name: entry for name, entry in found.items() if entry.delta_loss is not None}
    return dict(sorted(known.items(), key=lambda item: item[1].delta_loss or 0.0))
