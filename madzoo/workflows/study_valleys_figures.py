"""The two figures of the valley study: where the answer is known, and two networks on real pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["ARMS", "NETWORK_LABELS", "draw_known", "draw_training", "select"]

NETWORK_LABELS = {"s4d": "S4D", "mamba": "Mamba"}
ARMS = {"fit": "fitted by Adam", "minibatch": "mini-batch SGD", "label": "label-noise SGD"}
# Okabe and Ito's colours, which differ to colour-blind eyes; the markers differ as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C6D31", "#999999")
MARKERS = "os^vDPX*<"
ARM_STYLES = {"fit": ("#999999", "o"), "minibatch": ("#0072B2", "s"), "label": ("#D55E00", "^")}
Records = Sequence[Mapping[str, Any]]


def select(records: Iterable[Mapping[str, Any]], **wanted: Any) -> list[Mapping[str, Any]]:
    """Returns the records that have these values."""
    return [record for record in records if all(record.get(key) == value for key, value in wanted.items())]


def draw_known(toys: Mapping[str, Any], path: Path) -> None:
    """Draws the limit of gradient descent twice, the slide under label noise, and where every algorithm ends."""
    figure = Figure(figsize=(9.5, 7.5), dpi=100, layout="constrained")
    (paths, limit), (rate, ends) = figure.subplots(2, 2)
    _draw_paths(paths, toys["edge"])
    _draw_limit(limit, toys["edge"])
    _draw_slides(rate, toys["slides"])
    _draw_ends(ends, toys["algorithms"])
    figure.savefig(path)


def draw_training(study: Mapping[str, Any], path: Path) -> None:
    """Draws sharpness in time, its end against the step size, and rounding against sharpness, a column per network."""
    networks = study["protocol"]["networks"]
    figure = Figure(figsize=(9.5, 10), dpi=100, layout="constrained")
    panels = figure.subplots(3, len(networks), squeeze=False)
    for column, network in enumerate(networks):
        _draw_edge(panels[0, column], study, network)
        _draw_grid(panels[1, column], study, network)
        _draw_rounding(panels[2, column], study, network)
        panels[0, column].set_title(NETWORK_LABELS[network])
    figure.savefig(path)


def _draw_paths(axes: Axes, edge: Records) -> None:
    shown = [run for run in edge if run["lr"] in (0.1, 0.2, 0.3)]
    for run, color in zip(shown, COLORS, strict=False):
        end = run["diverged_at"] if run["diverged_at"] >= 0 else run["steps"][-1]
        kept = [(t, s) for t, s in zip(run["steps"], run["sharpness"], strict=True) if t <= end]
        label = f"lr {run['lr']:g}" + (" (diverges)" if run["diverged_at"] >= 0 else "")
        axes.plot(*zip(*kept, strict=True), color=color, marker="o", markersize=3, label=label)
        axes.axhline(run["limit"], color=color, linestyle=":", linewidth=1)
    axes.set(yscale="log", xlabel="step", ylabel="sharpness", xlim=(-1, 60), ylim=(0.5, 70))
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_title("(ab - 1)²/2 from (4, 0.251): GD and 2/lr (dotted)", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _draw_limit(axes: Axes, edge: Records) -> None:
    rates = [run["lr"] for run in edge]
    axes.plot(rates, [2 / lr for lr in rates], color="0.5", linestyle=":", label="2/lr")
    stay = [run for run in edge if run["diverged_at"] < 0]
    gone = [run for run in edge if run["diverged_at"] >= 0]
    axes.plot([r["lr"] for r in stay], [r["sharpness"][-1] for r in stay], "o", color=COLORS[0], label="GD at the end")
    axes.plot([r["lr"] for r in gone], [r["limit"] for r in gone], "x", color=COLORS[1], label="GD diverges")
    axes.axhline(edge[0]["sharpness"][0], color="0.8", linewidth=1)
    axes.set(xlabel="lr", ylabel="sharpness", ylim=(0, 30))
    axes.set_title("GD rests below 2/lr; the grey line is the start", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _draw_slides(axes: Axes, slides: Records) -> None:
    for lr, color, marker in zip(sorted({run["lr"] for run in slides}), COLORS, MARKERS, strict=False):
        mine = [run for run in select(slides, lr=lr) if run["measured"] is not None]
        sigmas = [run["sigma"] for run in mine]
        ratio = [run["measured"] / run["predicted"] for run in mine]
        bars = [run["stderr"] / run["predicted"] for run in mine]
        axes.errorbar(sigmas, ratio, bars, color=color, marker=marker, markersize=4, label=f"lr {lr:g}, measured")
        leading = [run["leading"] / run["predicted"] for run in mine]
        axes.plot(sigmas, leading, color=color, linestyle="--", label=f"lr {lr:g}, leading order")
    axes.axhspan(0.95, 1.05, color="0.93", zorder=0)
    axes.set(xscale="log", xlabel="sigma of the labels' noise", ylabel="rate / predicted rate", ylim=(0.5, 1.3))
    axes.set_title("label noise: decay of a² - b²; band: 5 %", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _draw_ends(axes: Axes, runs: Records) -> None:
    names = list(dict.fromkeys(run["objective"] for run in runs))
    algorithms = list(dict.fromkeys(run["algorithm"] for run in select(runs, objective=names[-1])))
    for i, algorithm in enumerate(algorithms):
        mine = [run for run in select(runs, algorithm=algorithm) if not run["diverged"] and run["sharpness"]]
        x = [names.index(run["objective"]) + (i - len(algorithms) / 2) * 0.08 for run in mine]
        y = [run["sharpness"] / run["flattest"] for run in mine]
        axes.plot(x, y, MARKERS[i], color=COLORS[i], markersize=5, label=algorithm)
    for k, name in enumerate(names):
        start = select(runs, objective=name)[0]
        axes.plot([k - 0.4, k + 0.4], [start["start"] / start["flattest"]] * 2, color="0.6", linewidth=1)
    axes.axhline(1, color="0.6", linestyle=":")
    axes.set(yscale="log", ylabel="sharpness / that of the flattest point", xticks=range(len(names)))
    axes.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    axes.minorticks_off()
    axes.set_xticklabels(names, rotation=20, fontsize=8, ha="right")
    axes.set_title("where each algorithm is at the end; grey lines: start", fontsize=10)
    axes.legend(fontsize=7, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.22))


def _draw_edge(axes: Axes, study: Mapping[str, Any], network: str) -> None:
    p = study["protocol"]
    batch = max(p["grid_batches"])
    for lr, color in zip(p["grid_lrs"], COLORS, strict=False):
        for i, run in enumerate(select(study["runs"], kind="grid", network=network, batch=batch, lr=lr)):
            times = [look["step"] * lr for look in run["looks"]]
            label = f"lr {lr:g}" if i == 0 else None
            axes.plot(times, [k["lambda_max"] for k in run["looks"]], "o-", color=color, markersize=3, label=label)
        axes.axhline(2 / lr, color=color, linestyle=":", linewidth=1)
    axes.set(xlabel="lr · step", ylabel="largest eigenvalue, full batch", ylim=(0, None))
    axes.legend(fontsize=8, frameon=False, title="dotted: 2/lr", title_fontsize=8)


def _draw_grid(axes: Axes, study: Mapping[str, Any], network: str) -> None:
    p = study["protocol"]
    rates = p["grid_lrs"]
    steps = np.linspace(min(rates), max(rates), 50)
    axes.plot(steps, 2 / steps, color="0.5", linestyle=":", label="2/lr")
    for batch, color, marker in zip(p["grid_batches"], COLORS[3:], MARKERS, strict=False):
        name = "all pictures" if batch == max(p["grid_batches"]) else f"batches of {batch}"
        for i, lr in enumerate(rates):
            runs = select(study["runs"], kind="grid", network=network, batch=batch, lr=lr)
            values = [run["end"]["lambda_max"] for run in runs if run["end"]]
            label = name if i == 0 else None
            axes.plot([lr] * len(values), values, marker, color=color, markersize=5, alpha=0.7, label=label)
    axes.set(xlabel="lr", ylabel="largest eigenvalue at the end", xticks=rates, ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)


def _draw_rounding(axes: Axes, study: Mapping[str, Any], network: str) -> None:
    """Draws the loss after rounding to the fewest bits against the trace, all runs of all arms; lines join a seed's."""
    bits = min(study["protocol"]["bits"])
    arms = [arm for arm, _ in study["protocol"]["arms"]]
    for seed in study["protocol"]["seeds"]:
        start = select(study["runs"], kind="fit", network=network, seed=seed)[0]["end"]
        points = {"fit": start}
        for arm in arms:
            run = select(study["runs"], kind="arm", network=network, seed=seed, arm=arm)[0]
            if run["snapshots"]:
                points[arm] = run["snapshots"][-1]
        for key, point in points.items():
            color, marker = ARM_STYLES[key]
            y = select(point["rounded"], bits=bits)[0]["loss"]
            if key != "fit":
                first = select(start["rounded"], bits=bits)[0]["loss"]
                axes.plot([start["trace"], point["trace"]], [first, y], color="0.85", linewidth=1, zorder=0)
            label = ARMS[key] if seed == study["protocol"]["seeds"][0] else None
            axes.plot(point["trace"], y, marker, color=color, markersize=6, label=label)
    axes.set(xlabel="trace of JᵀJ/n", ylabel=f"loss at {bits} bits", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
