"""Tables of the valley study on real pictures: means over the seeds, and ratios seed by seed, from the JSON."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from madzoo.workflows.study_page import table
from madzoo.workflows.study_ste_statistics import mean_sd
from madzoo.workflows.study_valleys_figures import ARMS, NETWORK_LABELS, select

__all__ = ["REAL", "last", "rounded"]

Study = Mapping[str, Any]
Record = Mapping[str, Any]
ALGORITHMS = {"sgd": "SGD", "momentum": "momentum 0.9", "adam": "Adam", "sam": "SAM", "label": "SGD, label noise"}


def grid(study: Study) -> str:
    """Tabulates SGD from the initialisation by batch and step size."""
    p, rows = study["protocol"], []
    for network in p["networks"]:
        for batch in p["grid_batches"]:
            for lr in p["grid_lrs"]:
                runs = select(study["runs"], kind="grid", network=network, batch=batch, lr=lr)
                name = "all" if batch == p["train"] else batch
                ends = [run["end"] for run in runs if run["end"]]
                cell: list[object] = [NETWORK_LABELS[network], name, f"{lr:g}", f"{2 / lr:.1f}"]
                cell.append(_spread(ends, lambda end: end["lambda_max"], ".1f"))
                late = [max(k["edge_ratio"] for k in run["looks"][len(run["looks"]) // 2 :]) for run in runs]
                cell.append(mean_sd(late, ".2f"))
                cell += _common(ends, p["bits"])
                rows.append([*cell, _noise(runs), sum(run["end"] is None for run in runs)])
    head = ["network", "batch", "lr", "2 / lr", "λ_max at the end", "largest λ_max lr / 2, second half"]
    line = f"Every run takes {p['grid_time']:g} / lr steps. The noise scale is that of the last look, in pictures."
    return f"{table([*head, *_common_head(p['bits']), 'noise scale', 'diverged'], rows)}\n\n{line}"


def settle(study: Study) -> str:
    """Tabulates the algorithms from one initialisation."""
    p, rows = study["protocol"], []
    for network in p["networks"]:
        for name, lr in p["algorithms"]:
            runs = select(study["runs"], kind="algorithm", network=network, algorithm=name)
            ends = [run["end"] for run in runs if run["end"]]
            cell: list[object] = [NETWORK_LABELS[network], ALGORITHMS[name], f"{lr:g}"]
            cell.append(_spread(ends, lambda end: end["lambda_max"], ".1f"))
            cell.append(_spread(ends, lambda end: end["trace"], ".0f"))
            cell.append(_spread(ends, lambda end: end["travelled"], ".1f"))
            rows.append([*cell, *_common(ends, p["bits"]), sum(run["end"] is None for run in runs)])
    head = ["network", "algorithm", "lr", "λ_max", "trace of JᵀJ/n", "distance from the start"]
    line = f"{p['algorithm_steps']} steps of {p['algorithm_batch']} pictures; label noise sigma = {p['label']:g}."
    return f"{table([*head, *_common_head(p['bits']), 'diverged'], rows)}\n\n{line}"


def valley(study: Study) -> str:
    """Tabulates the fitted networks and where the arms have carried them."""
    p, rows = study["protocol"], []
    for network in p["networks"]:
        fits = [run["end"] for run in select(study["runs"], kind="fit", network=network)]
        rows.append([NETWORK_LABELS[network], ARMS["fit"], *_floor(fits, p["bits"])])
        for arm, _ in p["arms"]:
            rows.append([NETWORK_LABELS[network], ARMS[arm], *_floor(last(study, network, arm), p["bits"])])
    head = ["network", "after", "λ_max", "trace of JᵀJ/n", "rank on the fitted pictures", "of it clear"]
    head += ["local dimension", "of it clear", *_common_head(p["bits"])]
    sizes = [run["num_params"] for run in select(study["runs"], kind="fit", seed=p["seeds"][0])]
    fresh = select(study["runs"], kind="fit")[0]["end"]["dimension_rows"]
    line = (
        f"{p['arm_steps']} steps at lr = {p['arm_share']:g} / λ_max of the start, batches of {p['arm_batch']}, then "
        f"{p['relax_steps']} steps of GD without noise. Clear: singular values above 0.001 of the largest. The local "
        f"dimension is measured on {p['fresh']} unseen pictures, {fresh} rows, of {_names(sizes)} parameters."
    )
    return f"{table(head, rows)}\n\n{line}"


def changes(study: Study) -> str:
    """Tabulates what label noise changes against mini-batches alone, seed by seed, as ratios."""
    p, rows = study["protocol"], []
    measures: list[tuple[str, Callable[[Record], float]]] = [
        ("λ_max", lambda r: r["lambda_max"]),
        ("trace", lambda r: r["trace"]),
        *((f"loss at {b} bits", lambda r, b=b: select(r["rounded"], bits=b)[0]["loss"]) for b in p["bits"]),
        ("clear local dimension", lambda r: r["clear_dimension"]),
    ]
    for network in p["networks"]:
        plain, noisy = last(study, network, "minibatch"), last(study, network, "label")
        for name, measure in measures:
            if len(plain) != len(noisy) or not plain:
                continue
            ratios = [measure(b) / measure(a) for a, b in zip(plain, noisy, strict=True)]
            falls = sum(ratio < 1 for ratio in ratios)
            cells = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            rows.append([NETWORK_LABELS[network], name, cells, f"{falls} of {len(ratios)}"])
    return table(["network", "label noise against none", "ratio, by seed", "smaller in"], rows)


def motion(study: Study) -> str:
    """Tabulates the displacement of each arm, split by the row space of J at its start."""
    p, rows = study["protocol"], []
    for network in p["networks"]:
        for arm, _ in p["arms"]:
            runs = select(study["runs"], kind="arm", network=network, arm=arm)
            found = [run["looks"][-1]["motion"] for run in runs if run["looks"][-1]["motion"]]
            ends = last(study, network, arm)
            cell: list[object] = [NETWORK_LABELS[network], ARMS[arm]]
            cell.append(_spread(found, lambda m: m["length"], ".3f"))
            cell.append(_spread(found, lambda m: m["outside"] ** 2 / max(m["length"], 1e-30) ** 2, ".2f"))
            cell.append(_spread(found, lambda m: 1 - m["rank"] / m["num_params"], ".2f"))
            cell.append(_spread(ends, lambda end: end["barrier"], ".4f"))
            rows.append(cell)
    head = ["network", "arm", "length", "share of its square in ker J", "that of a random direction"]
    return table([*head, "barrier on the straight line"], rows)


def apart(study: Study) -> str:
    """Tabulates the lines between fitted networks of different seeds."""
    rows = [
        [NETWORK_LABELS[r["network"]], len(r["barriers"]), mean_sd(r["barriers"], ".2f"), mean_sd(r["lengths"], ".1f")]
        for r in study["apart"]
        if r["barriers"]
    ]
    return table(["network", "pairs", "barrier", "distance"], rows)


def overhead(study: Study) -> str:
    """Tabulates what the probes cost."""
    rows = [
        [
            NETWORK_LABELS[r["network"]],
            r["batch"],
            f"{1000 * r['step']:.2f}",
            f"{r['look']:.2f}",
            r["every"],
            f"{r['share']:.1%}",
        ]
        for r in study["overhead"]
    ]
    return table(["network", "batch", "a step, ms", "a look, s", "steps between looks", "overhead"], rows)


def last(study: Study, network: str, arm: str) -> list[Record]:
    """Returns the last measurements of an arm, one per seed that has one."""
    runs = select(study["runs"], kind="arm", network=network, arm=arm)
    return [run["snapshots"][-1] for run in runs if run["snapshots"]]


def rounded(end: Record, bits: int) -> Record:
    """Returns what rounding to so many bits did to a measured network."""
    return select(end["rounded"], bits=bits)[0]


REAL: dict[str, Callable[[Study], str]] = {
    "grid": grid,
    "settle": settle,
    "valley": valley,
    "changes": changes,
    "motion": motion,
    "apart": apart,
    "overhead": overhead,
}


def _common_head(bits: Sequence[int]) -> list[str]:
    return ["loss", "accuracy, %", *(f"loss at {b} bits" for b in bits), *(f"accuracy at {b} bits, %" for b in bits)]


def _common(ends: Sequence[Record], bits: Sequence[int]) -> list[str]:
    cell = [_spread(ends, lambda end: end["loss"], ".4f"), _spread(ends, lambda end: 100 * end["accuracy"], ".1f")]
    cell += [_spread(ends, lambda end, b=b: rounded(end, b)["loss"], ".3f") for b in bits]
    return cell + [_spread(ends, lambda end, b=b: 100 * rounded(end, b)["accuracy"], ".1f") for b in bits]


def _floor(ends: Sequence[Record], bits: Sequence[int]) -> list[str]:
    forms = {"lambda_max": ".1f", "trace": ".0f", "rank": ".0f", "clear_rank": ".0f"}
    forms |= {"dimension": ".0f", "clear_dimension": ".0f"}
    return [_spread(ends, lambda end, k=key: end[k], form) for key, form in forms.items()] + _common(ends, bits)


def _noise(runs: Sequence[Record]) -> str:
    scales = [run["looks"][-1]["noise_scale"] for run in runs]
    told = [scale for scale in scales if scale is not None]
    return f"{statistics.median(told):.0f} ({len(told)} of {len(scales)})" if told else "undefined"


def _spread(ends: Sequence[Any], measure: Callable[[Any], float], form: str) -> str:
    return mean_sd([measure(end) for end in ends], form) if ends else "none"


def _names(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, sizes))
