"""The figure of the study of quantized recurrences: accuracy against bits, and the logits' error against length."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["LABELS", "TITLES", "draw", "label_of"]

TITLES = {"s4d": "S4D", "mamba": "Mamba"}
LABELS = {
    "all": "all weights",
    "projections": "projections, embedding, head",
    "x_proj": "x_proj (B, C, dt features)",
    "conv1d": "short convolution",
    "C": "C",
    "D": "D",
    "dt": "dt",
    "A_log": "A_log",
    "log_A_real": "log_A_real",
    "A_imag": "A_imag",
    "inputs": "inputs of projections",
    "scan_inputs": "inputs of scans",
    "factor": "exp(dt A)",
    "state": "state",
}
# Okabe and Ito's colours, which differ to colour-blind eyes; the markers differ as well.
LINES = {
    ("projections", "row"): ("#0072B2", "o"),
    ("log_A_real", "row"): ("#009E73", "^"),
    ("A_log", "row"): ("#009E73", "^"),
    ("A_imag", "row"): ("#56B4E9", "v"),
    ("dt", "tensor"): ("#E69F00", "s"),
    ("dt", "row"): ("#E69F00", "s"),
    ("factor", "tensor"): ("#D55E00", "D"),
    ("state", "channel"): ("#CC79A7", "P"),
    ("state", "fixed channel"): ("#000000", "X"),
}
ERROR_BITS = 8
Row = Mapping[str, Any]


def draw(study: Mapping[str, Any], path: Path) -> None:
    """Draws accuracy after the whole picture against bits above, the logits' relative error at 8 bits below."""
    figure = Figure(figsize=(9, 6.6), dpi=110, layout="constrained")
    networks = study["networks"]
    panels = figure.subplots(2, len(networks), sharey="row", squeeze=False)
    lengths, bits = study["protocol"]["lengths"], study["protocol"]["bits"]
    for column, (name, network) in enumerate(networks.items()):
        above, below = panels[0][column], panels[1][column]
        for (part, share), (color, marker) in LINES.items():
            rows = _rows(network, part, share)
            style = {"color": color, "marker": marker, "markersize": 5, "label": label_of(part, share)}
            if rows:
                above.plot([row["bits"] for row in rows], [row["top1"][0] for row in rows], **style)
                _draw_error(below, rows, lengths, style)
        above.axhline(network["validation"][0], color="0.5", linewidth=1, linestyle="--")
        above.set(title=TITLES[name], xlabel="bits", xticks=sorted(bits), ylim=(0, 1))
        above.invert_xaxis()
        below.set(xlabel="pixels read", xscale="log", yscale="log")
        below.set_xticks(lengths, labels=[str(length) for length in lengths])
        below.minorticks_off()
        for axes in (above, below):
            axes.grid(color="0.92")
    panels[0][0].set_ylabel("top-1 after the whole picture")
    panels[1][0].set_ylabel(f"relative error of the logits, {ERROR_BITS} bits")
    labelled = {text: line for axes in panels[0] for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def label_of(part: str, share: str) -> str:
    """Names a condition without its bits."""
    return f"{LABELS[part]}, per {share}" if part == "state" else LABELS[part]


def _rows(network: Mapping[str, Any], part: str, share: str) -> list[Row]:
    """The rows of a line from few to many bits; one scale per tensor only where nothing has one per row."""
    rows = [row for row in network["rows"] if (row["part"], row["share"]) == (part, share)]
    by_row = share == "tensor" and any((row["part"], row["share"]) == (part, "row") for row in network["rows"])
    return [] if by_row else sorted(rows, key=lambda row: row["bits"])


def _draw_error(axes: Any, rows: Sequence[Row], lengths: Sequence[int], style: Mapping[str, Any]) -> None:
    for row in rows:
        points = [(t, e) for t, e in zip(lengths, row["distance"], strict=True) if e]
        if row["bits"] == ERROR_BITS and points:
            axes.plot(*zip(*points, strict=True), **style)
