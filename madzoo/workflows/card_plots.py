"""The plots of a card: the singular values of its Jacobian, and what the metric loses as bits are taken away."""

from pathlib import Path

from matplotlib.figure import Figure

from madzoo.checkpoint.card_blocks import GEOMETRY_PLOT, QUANTIZATION_PLOT
from madzoo.checkpoint.weights import atomic_path
from madzoo.geometry import GeometryReport
from madzoo.quantization import SensitivityReport

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
    """Draws the metric against bits, with the unrounded model as a line; returns the PNG's path.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    known = {entry.bits: entry.value for entry in report.entries if entry.value is not None}
    figure = Figure(figsize=(5, 3), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.axhline(report.reference, color="0.6", linewidth=1, label="float32")
    axes.plot(list(known), list(known.values()), "o-", color="C0", label="rounded")
    if not report.higher_is_better:
        axes.set_yscale("log")
    axes.set(xlabel="bits of every weight", ylabel=report.metric, xticks=[entry.bits for entry in report.entries])
    axes.invert_xaxis()
    axes.legend(frameon=False)
    path = folder / QUANTIZATION_PLOT
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path
