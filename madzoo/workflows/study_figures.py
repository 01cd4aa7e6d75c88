"""The three figures of the study of the local dimension."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from madzoo.workflows.study_networks import LOST
from madzoo.workflows.study_statistics import PROPERTIES, dimension_share

__all__ = ["LABELS", "draw_conventions", "draw_properties", "draw_training"]

LABELS = {
    "relu_mlp": "ReLU MLP",
    "resnet": "ResNet",
    "vit": "ViT",
    "s4d": "S4D",
    "mamba": "Mamba",
    "relu_mlp_sgd": "ReLU MLP, published recipe",
}
# Okabe and Ito's colours, which differ to colour-blind eyes; the markers differ as well.
STYLES = {
    "relu_mlp": ("#0072B2", "o"),
    "resnet": ("#D55E00", "s"),
    "vit": ("#009E73", "^"),
    "s4d": ("#CC79A7", "D"),
    "mamba": ("#E69F00", "v"),
    "relu_mlp_sgd": ("#56B4E9", "o"),
}
CONVENTIONS = {
    "logits_float64": "logits, float64",
    "softmax_float64": "softmax, float64",
    "logits_float32": "logits, float32",
    "softmax_float32": "softmax, float32",
}
LINES = ("-", "--", ":")
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def draw_training(runs: Runs, path: Path) -> None:
    """Draws rank against measured epoch, one panel per network, one line per seed, under two ceilings.

    Grey: the parameters that are not inactive. Black: what counting symmetries leaves.
    """
    figure = Figure(figsize=(9, 5.4), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    for axes, (network, group) in zip(panels, runs.items(), strict=False):
        color, marker = STYLES[network]
        for run, line in zip(group, LINES * len(group), strict=False):
            ranks = [record["rank"] for record in run["records"]]
            x = range(len(ranks))
            axes.plot(x, [r["rank"] / r["num_params"] for r in ranks], line, color=color, marker=marker, markersize=4)
            ceiling = [1 - r["inactive"] / r["num_params"] for r in ranks]
            axes.plot(x, ceiling, line, color="0.6", linewidth=1)
        size = group[0]["records"][0]["rank"]["num_params"]
        axes.axhline(1 - LOST[network.removesuffix("_sgd")] / size, color="black", linewidth=1, dashes=(6, 3))
        epochs = [record["epoch"] for record in group[0]["records"]]
        axes.set(title=LABELS[network], xlabel="epoch", xticks=range(len(epochs)), xticklabels=epochs)
        axes.grid(axis="y", color="0.9")
    figure.supylabel("share of the parameters", fontsize="medium")
    seeds = [Line2D([], [], color="0.3", linestyle=line, marker="o", markersize=4) for line in LINES]
    others = [Line2D([], [], color="0.6", linewidth=1), Line2D([], [], color="black", linewidth=1, dashes=(6, 3))]
    names = [*(f"rank, seed {run['seed']}" for run in next(iter(runs.values()))), "not inactive", "symmetries counted"]
    handles = [*seeds[: len(names) - 2], *others]
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


def draw_properties(runs: Runs, path: Path) -> None:
    """Draws every property against the share of the parameters that the local dimension is, at the end."""
    figure = Figure(figsize=(9, 5.6), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3, sharex=True)
    for axes, (name, measure) in zip(panels.flat, PROPERTIES.items(), strict=True):
        for network, group in runs.items():
            color, marker = STYLES[network]
            x, y = [dimension_share(run) for run in group], [measure(run) for run in group]
            axes.scatter(x, y, s=34, color=color, marker=marker, label=LABELS[network])
        axes.set(title=name)
        if name in ("largest eigenvalue", "trace of the Hessian") and axes.dataLim.y0 > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="0.93")
        axes.set_axisbelow(True)
    for axes in panels[1]:
        axes.set_xlabel("local dimension / parameters")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


def draw_conventions(runs: Runs, path: Path) -> None:
    """Draws by how much each convention says that the rank changes from the first epoch to the last."""
    figure = Figure(figsize=(8, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    colors = ("#000000", "#56B4E9", "#E69F00", "#D55E00")
    for index, (name, label) in enumerate(CONVENTIONS.items()):
        points = [
            (
                run["records"][-1]["conventions"][name] - run["records"][0]["conventions"][name],
                row + 0.16 * (index - 1.5),
            )
            for row, group in enumerate(runs.values())
            for run in group
        ]
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=26, marker="osD^"[index], color=colors[index], label=label)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set(yticks=range(len(runs)), yticklabels=[LABELS[network] for network in runs])
    axes.set(xlabel="rank at the end minus rank at initialisation", ylim=(len(runs) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})
