"""Tables of the valley study where the answer is known: theory beside measurement, written from the JSON."""

from collections.abc import Callable, Mapping
from typing import Any

from madzoo.workflows.study_page import table
from madzoo.workflows.study_valleys_figures import select

__all__ = ["KNOWN", "signed"]

Study = Mapping[str, Any]
Record = Mapping[str, Any]


def edge(study: Study) -> str:
    """Tabulates gradient descent on the product at every step size."""
    rows = []
    for run in study["toys"]["edge"]:
        gone = run["diverged_at"] >= 0
        end = f"diverges at step {run['diverged_at']}" if gone else f"{run['sharpness'][-1]:.3f}"
        rows.append([f"{run['lr']:g}", f"{run['limit']:.2f}", end, "" if gone else f"{run['loss']:.1e}"])
    start = study["toys"]["edge"][0]["sharpness"][0]
    line = f"Sharpness at the start {start:.2f}; {study['protocol']['toys']['edge_steps']} steps."
    return f"{table(['lr', '2 / lr', 'sharpness at the end', 'loss at the end'], rows)}\n\n{line}"


def flow(study: Study) -> str:
    """Tabulates the relative drift of a^2 - b^2 under gradient descent."""
    toys = study["protocol"]["toys"]
    rows = [[f"{r['lr']:g}", r["steps"], f"{r['drift']:.2e}", f"{r['loss']:.0e}"] for r in study["toys"]["flow"]]
    head = ["lr", f"steps to t = {toys['flow_time']:g}", "relative drift of a² - b²", "loss at the end"]
    return table(head, rows)


def slides(study: Study) -> str:
    """Tabulates the measured rate of the slide beside both predictions."""
    rows = []
    for r in study["toys"]["slides"]:
        kept = r["paths"] - r["diverged"] - r["crossed"]
        cell: list[object] = [f"{r['lr']:g}", f"{r['sigma']:g}", r["steps"], f"{r['predicted']:.3e}"]
        if r["measured"] is None:
            cell += ["none left", "", ""]
        else:
            cell.append(f"{r['measured']:.3e} ± {r['stderr']:.0e}")
            cell += [signed(r["measured"] / r[key] - 1) for key in ("predicted", "leading")]
        rows.append([*cell, f"{r['leading']:.3e}", f"{kept} of {r['paths']}"])
    head = ["lr", "sigma", "steps", "predicted", "measured", "measured against predicted"]
    return table([*head, "against leading order", "leading order lr² sigma²", "paths that count"], rows)


def rests(study: Study) -> str:
    """Tabulates the mean of a^2 + b^2 after the slide."""
    rows = [
        [
            f"{r['lr']:g}",
            f"{r['sigma']:g}",
            r["steps"],
            "none left" if r["squares"] is None else f"{r['squares']:.3f} ± {r['stderr']:.3f}",
            r["diverged"],
        ]
        for r in study["toys"]["rests"]
    ]
    return table(["lr", "sigma", "steps", "mean of a² + b²", "diverged"], rows)


def algorithms(study: Study) -> str:
    """Tabulates where every algorithm is on every objective: sharpness, and drift along the valley."""
    runs = study["toys"]["algorithms"]
    names = list(dict.fromkeys(run["objective"] for run in runs))
    labels = list(dict.fromkeys(run["algorithm"] for run in select(runs, objective=names[-1])))
    rows = [["at the start", *(_ratio(select(runs, objective=name)[0], "start") for name in names)]]
    for label in labels:
        found = [select(runs, objective=name, algorithm=label) for name in names]
        rows.append([label, *(_end(group[0]) if group else "" for group in found)])
    toys = study["protocol"]["toys"]
    line = (
        f"{toys['steps']} steps from valley_point({toys['spread']:g}) + {toys['off']:g}; noisy ones: mean of "
        f"{toys['seeds']} seeds. Step sizes: 0.4 of 2 / sharpness at the start unless stated, Adam and AdamW 0.01."
    )
    return f"{table(['', *names], rows)}\n\n{line}"


def signed(share: float) -> str:
    """Writes a share in percent with its sign; what rounds to 0 has none."""
    return f"{share:+.1%}" if abs(share) >= 0.0005 else "0.0%"


KNOWN: dict[str, Callable[[Study], str]] = {
    "edge": edge,
    "flow": flow,
    "slides": slides,
    "rests": rests,
    "algorithms": algorithms,
}


def _ratio(run: Record, key: str) -> str:
    return f"{run[key] / run['flattest']:.2f}"


def _end(run: Record) -> str:
    if run["diverged"]:
        return f"{run['diverged']} diverged"
    drift = "?" if run["drift"] is None else f"{run['drift']:.2f}"
    return f"{_ratio(run, 'sharpness')} ({drift})"
