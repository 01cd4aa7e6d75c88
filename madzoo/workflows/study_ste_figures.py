"""The two figures of the straight-through study: known answers, and training on real pictures."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from madzoo.workflows.study_ste_statistics import chosen, floats, over_seeds, post_training, scores, select

__all__ = ["ESTIMATORS", "NETWORK_LABELS", "draw_known", "draw_training"]

NETWORK_LABELS = {"s4d": "S4D", "mamba": "Mamba"}
ESTIMATORS = {"ste": "STE", "clipped_ste": "clipped STE", "lsq": "LSQ", "prox_quant": "ProxQuant"}
# Okabe and Ito's colours, which differ to colour-blind eyes; the markers differ as well.
STYLES = {
    "ste": ("#0072B2", "o"),
    "clipped_ste": ("#56B4E9", "s"),
    "lsq": ("#009E73", "^"),
    "prox_quant": ("#E69F00", "v"),
    "ptq": ("#D55E00", "D"),
    "more": ("#CC79A7", "x"),
    "sea": ("#0072B2", "o"),
    "iht": ("#56B4E9", "s"),
    "htp": ("#009E73", "^"),
    "omp": ("#E69F00", "v"),
}
RANK_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
Records = Sequence[Mapping[str, Any]]


def draw_known(toys: Mapping[str, Any], path: Path) -> None:
    """Draws flips against c, gap and flips in the valleys against the step size, and recovery against k."""
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 3)
    _draw_flips(top[0], toys["two_level"])
    for axes, key, title in ((top[1], "last_gap", "valleys: gap of STE's last"), (top[2], "flip_frequency", "flips")):
        _draw_valley(axes, toys["valley"], key)
        axes.set(title=title, xlabel="step size", xscale="log")
    top[2].set_ylim(0, 0.7)
    top[2].legend(title="rank of H", fontsize=7, title_fontsize=7, frameon=False, ncols=3, loc="upper left")
    _draw_gaps(bottom[0], toys["valley"])
    for axes, correlation in zip(bottom[1:], sorted({run["correlation"] for run in toys["sparse"]}), strict=False):
        _draw_sparse(axes, select(toys["sparse"], correlation=correlation))
        axes.set(title="Gaussian columns" if correlation == 0 else f"coherent columns, {correlation:g}", xlabel="k")
    figure.savefig(path)


def draw_training(study: Mapping[str, Any], path: Path) -> None:
    """Draws test accuracy against bits, one column per network, over gradient mismatch and oscillation."""
    networks = study["protocol"]["networks"]
    figure = Figure(figsize=(9, 7.5), dpi=100, layout="constrained")
    panels = figure.subplots(3, len(networks), squeeze=False, sharey="row")
    for column, network in enumerate(networks):
        _draw_accuracy(panels[0, column], study, network)
        _draw_bars(panels[1, column], study, network, ("mismatch", "differences"))
        _draw_bars(panels[2, column], study, network, ("middle", "frequency"))
    panels[0, 0].set_ylabel("test accuracy, %")
    panels[1, 0].set_ylabel("cosine with differences")
    panels[2, 0].set_ylabel("reversals per step, middle")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(path)


def _draw_flips(axes: Axes, runs: Records) -> None:
    c = np.linspace(-1, 1, 101)
    axes.plot(c, 1 - np.abs(c), color="0.6", label="flips: 1 - |c|")
    axes.plot(c, c, color="0.6", linestyle="--", label="mean: c")
    for lr, marker in zip(sorted({run["lr"] for run in runs}), "+x.", strict=False):
        found = select(runs, lr=lr)
        for key in ("flip_frequency", "mean"):
            axes.plot([r["c"] for r in found], [r[key] for r in found], marker, color="#0072B2")
    axes.set(title="two levels, three step sizes", xlabel="c")
    axes.legend(fontsize=7, frameon=False)


def _draw_valley(axes: Axes, runs: Records, key: str) -> None:
    for rank, color in zip(sorted({run["rank"] for run in runs}), RANK_COLORS, strict=False):
        mine = select(runs, rank=rank, method="ste")
        rates = sorted({run["lr"] for run in mine})
        means = [statistics.fmean(run[key] for run in select(mine, lr=lr)) for lr in rates]
        axes.plot(rates, means, "o-", color=color, markersize=3, label=str(rank))
        if key == "last_gap":
            plain = statistics.fmean(run["last_gap"] for run in select(runs, rank=rank, method="rounding"))
            axes.axhline(plain, color=color, linewidth=0.8, linestyle=":")
    axes.grid(color="0.93")


def _draw_gaps(axes: Axes, runs: Records) -> None:
    """Draws the mean gap of the last iterate at each method's best step size, against the rank."""
    ranks = sorted({run["rank"] for run in runs})
    for method, name in (("rounding", "ptq"), *((m, m) for m in ("ste", "clipped_ste", "prox_quant"))):
        means = []
        for rank in ranks:
            mine = select(runs, rank=rank, method=method)
            groups = [select(mine, lr=lr) for lr in {run.get("lr") for run in mine}]
            means.append(min(statistics.fmean(run["last_gap"] for run in group) for group in groups))
        color, marker = STYLES[name]
        label = "rounding" if name == "ptq" else ESTIMATORS[name]
        axes.plot(ranks, means, color=color, marker=marker, markersize=4, label=label)
    axes.set(title="gap at the best step size", xlabel="rank of H")
    axes.grid(color="0.93")
    axes.legend(fontsize=7, frameon=False)


def _draw_sparse(axes: Axes, runs: Records) -> None:
    sizes = sorted({run["k"] for run in runs})
    for method in ("sea", "iht", "htp", "omp"):
        found = [[run[method] for run in select(runs, k=k)] for k in sizes]
        color, marker = STYLES[method]
        axes.errorbar(sizes, *_mean_and_sd(found), color=color, marker=marker, markersize=4, label=method.upper())
    axes.set_ylim(-0.03, 1.03)
    axes.grid(color="0.93")
    axes.legend(fontsize=7, frameon=False)


def _draw_accuracy(axes: Axes, study: Mapping[str, Any], network: str) -> None:
    p = study["protocol"]
    runs, more = floats(study, network), chosen(study, "more", network=network)
    widths = sorted({*p["ptq_bits"], *p["bits"]})
    kept = sorted(p["ptq_bits"])
    lines: list[tuple[str, str, Sequence[int], list[list[float]]]] = [
        ("ptq", "PTQ", kept, [scores(post_training(runs, bits, p["observer"])) for bits in kept]),
    ]
    low = sorted(p["bits"])
    lines.append(("more", "trained on, PTQ", low, [scores(post_training(more, bits, p["observer"])) for bits in low]))
    for name in p["estimators"]:
        found = [scores(chosen(study, "qat", network=network, bits=bits, estimator=name)) for bits in low]
        lines.append((name, ESTIMATORS[name], low, found))
    for name, label, bits, found in lines:
        color, marker = STYLES[name]
        x = [widths.index(b) for b in bits]
        axes.errorbar(x, *_mean_and_sd(found), color=color, marker=marker, markersize=4, capsize=2, label=label)
    axes.axhline(statistics.fmean(scores(more)), color="0.5", linestyle=":", label="float, trained on")
    axes.set(title=NETWORK_LABELS[network], xlabel="bits", xticks=range(len(widths)), xticklabels=widths)
    axes.grid(color="0.93")


def _draw_bars(axes: Axes, study: Mapping[str, Any], network: str, keys: tuple[str, str]) -> None:
    p = study["protocol"]
    bits, width = sorted(p["bits"]), 0.8 / len(p["estimators"])
    for i, name in enumerate(p["estimators"]):
        cells = [chosen(study, "qat", network=network, bits=b, estimator=name) for b in bits]
        found = [over_seeds(runs, lambda run: run[keys[0]][keys[1]]) or [0.0] for runs in cells]
        means, deviations = _mean_and_sd(found)
        places = [x + (i - (len(p["estimators"]) - 1) / 2) * width for x in range(len(bits))]
        axes.bar(places, means, width, yerr=deviations, color=STYLES[name][0], capsize=2)
    axes.set(xticks=range(len(bits)), xticklabels=[f"{b} bits" for b in bits])
    axes.grid(axis="y", color="0.93")
    axes.set_axisbelow(True)


def _mean_and_sd(groups: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    deviations = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in groups]
    return [statistics.fmean(group) for group in groups], deviations
