"""The plot of a card: what the metric loses as bits are taken away."""

from pathlib import Path

from matplotlib.figure import Figure

from madzoo.checkpoint.card_blocks import QUANTIZATION_PLOT
from madzoo.checkpoint.weights import atomic_path
from madzoo.quantization import SensitivityReport

__all__ = ["plot_sensitivity"]


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
