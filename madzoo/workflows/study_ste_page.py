"""The page of the straight-through study: every number in it is written from the JSON, between markers."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from madzoo.workflows.study_page import fill_page, table
from madzoo.workflows.study_ste_figures import ESTIMATORS, NETWORK_LABELS, draw_known, draw_training
from madzoo.workflows.study_ste_statistics import (
    Run,
    Study,
    cells,
    chosen,
    floats,
    mean_sd,
    over_seeds,
    paired,
    post_training,
    scores,
    select,
)

__all__ = ["BLOCKS", "write_page"]


def write_page(study: Study, page: Path) -> None:
    """Draws the figures beside the page and renders its blocks.

    Raises:
        DataError: when the page lacks the markers of a block, or is not there.
    """
    figures = {
        "_known": lambda path: draw_known(study["toys"], path),
        "_training": lambda path: draw_training(study, path),
    }
    fill_page(study, page, blocks=BLOCKS, figures=figures)


def two_level(study: Study) -> str:
    """Sets the measured mean and flip frequency of the two-level quadratic against the proof."""
    runs, rows = study["toys"]["two_level"], []
    for c in sorted({run["c"] for run in runs}):
        found = select(runs, c=c)
        means, flips = ([run[key] for run in found] for key in ("mean", "flip_frequency"))
        spans = [f"{min(values):.6f} to {max(values):.6f}" for values in (means, flips)]
        rows.append([f"{c:g}", spans[0], f"{1 - abs(c):g}", spans[1]])
    wrong = [max(abs(run["mean"] - run["c"]) for run in runs)]
    wrong.append(max(abs(run["flip_frequency"] - 1 + abs(run["c"])) for run in runs))
    steps = ", ".join(f"{lr:g}" for lr in study["protocol"]["toys"]["orbit_lrs"])
    line = (
        f"Step sizes {steps}, {len(study['protocol']['toys']['seeds'])} starts each. Largest error of the mean "
        f"{wrong[0]:.1e}, of the flip frequency {wrong[1]:.1e}; the proof allows {runs[0]['tolerance']:.1e}."
    )
    head = ["c (theory: mean q)", "mean q, measured", "1 - abs(c) (theory: flips)", "flips, measured"]
    return f"{table(head, rows)}\n\n{line}"


def valley(study: Study) -> str:
    """Tabulates the gaps to the best grid point, every method at the step size with the smallest mean gap."""
    runs, toys, rows = study["toys"]["valley"], study["protocol"]["toys"], []
    for rank in toys["ranks"]:
        at = select(runs, rank=rank)
        plain = select(at, method="rounding")
        cell: list[object] = [rank, mean_sd([run["last_gap"] for run in plain], ".3f")]
        for method in ("ste", "clipped_ste", "prox_quant"):
            cell.append(mean_sd([run["last_gap"] for run in _best_lr(at, method, "last_gap")], ".3f"))
        cell.append(mean_sd([run["best_gap"] for run in _best_lr(at, "ste", "best_gap")], ".3f"))
        cell.append(mean_sd([run["best_gap"] for run in select(at, method="random_rounding")], ".4f"))
        won = [(run["last_wins"], run["last_loses"]) for run in _best_lr(at, "ste", "last_gap")]
        cell.append(" / ".join(f"{100 * statistics.fmean(share):.0f} %" for share in zip(*won, strict=True)))
        rows.append(cell)
    head = ["rank of H", "rounding c", "STE, last", "clipped STE, last", "ProxQuant, last", "STE, best met"]
    head += [f"best of {toys['valley_steps']} random roundings", "STE's last better / worse than rounding"]
    plain = select(runs, method="ste")
    line = (
        f"{toys['problems']} problems for each of {len(toys['seeds'])} seeds, d = {toys['dim']}, "
        f"{toys['valley_steps']} steps, three levels. What must hold exactly: the largest move along the floor is "
        f"{max(run['off_valley'] for run in plain):.1e}, the largest difference of the gradient at the mean of q and "
        f"(w_0 - w_T) / (lr T) is {max(run['identity_error'] for run in plain):.1e}."
    )
    return f"{table(head, rows)}\n\n{line}"


def valley_steps(study: Study) -> str:
    """Tabulates the plain estimator at every step size and rank: gap, flips, distance, all as means over the seeds."""
    runs, toys, rows = study["toys"]["valley"], study["protocol"]["toys"], []
    for rank in toys["ranks"]:
        for key, name in (
            ("last_gap", "gap, last"),
            ("best_gap", "gap, best met"),
            ("flip_frequency", "flips per step"),
            ("latent_distance", "distance to the grid"),
            ("mean_gradient", "gradient at mean q"),
        ):
            found = [select(runs, rank=rank, method="ste", lr=lr) for lr in toys["valley_lrs"]]
            rows.append([f"{rank}: {name}", *(f"{statistics.fmean(r[key] for r in group):.3f}" for group in found)])
    return table(["rank: measure", *(f"lr {lr:g}" for lr in toys["valley_lrs"])], rows)


def sparse(study: Study) -> str:
    """Tabulates the share of supports recovered, mean and standard deviation over the seeds."""
    runs, toys, rows = study["toys"]["sparse"], study["protocol"]["toys"], []
    for correlation in toys["correlations"]:
        for k in toys["sparsities"]:
            found = select(runs, correlation=correlation, k=k)
            cell = [mean_sd([run[m] for run in found], ".2f") for m in ("sea", "iht", "htp", "omp")]
            lead = [run["sea"] - max(run[m] for m in ("iht", "htp", "omp")) for run in found]
            rows.append([_dictionary(correlation), k, *cell, f"{min(lead):+.2f} to {max(lead):+.2f}"])
    head = ["dictionary", "k", "SEA", "normalised IHT", "HTP", "OMP", "SEA less the best other, by seed"]
    line = (
        f"{toys['rows']} measurements, {toys['columns']} columns, {toys['problems']} problems for each of "
        f"{len(toys['seeds'])} seeds, {toys['iterations']} iterations for the first three."
    )
    return f"{table(head, rows)}\n\n{line}"


def setup(study: Study) -> str:
    """States data, recipe, sizes and cost of the real part."""
    p = study["protocol"]
    sizes = [f"{NETWORK_LABELS[n]} {floats(study, n)[0]['num_params']}" for n in p["networks"]]
    rates = " and ".join(f"{lr:g}" for lr in p["lrs"])
    return (
        f"{p['train']} training, {p['held_out']} held-out and {p['test']} test pictures of {p['dataset']}, a row a "
        f"step; seeds {', '.join(map(str, p['seeds']))}, none dropped. Parameters: {', '.join(sizes)}. Float: Adam, "
        f"{p['steps']} steps of {p['batch_size']} pictures, learning rate {p['lr']:g}, cosine. Then {p['more_steps']} "
        f"steps more, with every estimator and in float alike, at a learning rate of {rates}: the first seed tries "
        f"each at {p['bits'][0]} bits, and the best on held-out pictures is every seed's at every width. Matrices "
        "and convolutions at the bits stated, vectors "
        f"and the recurrence at 8; scales by least squares.\n\nCost: {study['cost']['cpu_seconds'] / 60:.0f} minutes "
        f"of one busy core for {len(study['runs'])} runs; torch {study['cost']['torch']}."
    )


def rounding(study: Study) -> str:
    """Tabulates test accuracy in float and after rounding, without training after."""
    p, rows = study["protocol"], []
    for network in p["networks"]:
        runs = floats(study, network)
        for observer in p["observers"]:
            found = [mean_sd(scores(post_training(runs, bits, observer))) for bits in p["ptq_bits"]]
            rows.append([NETWORK_LABELS[network], observer, mean_sd(scores(runs)), *found])
    return table(["network", "scales", "float", *(f"{bits} bits" for bits in p["ptq_bits"])], rows)


def training(study: Study) -> str:
    """Tabulates test accuracy after training on, per estimator, beside the two baselines of the same budget."""
    p, rows = study["protocol"], []
    for network, bits in cells(study):
        more = chosen(study, "more", network=network)
        cell = [mean_sd(scores(post_training(floats(study, network), bits, p["observer"])))]
        cell += [mean_sd(scores(more)), mean_sd(scores(post_training(more, bits, p["observer"])))]
        cell += [mean_sd(scores(_qat(study, network, bits, name))) for name in p["estimators"]]
        rows.append([NETWORK_LABELS[network], bits, *cell])
    head = ["network", "bits", "PTQ", "float, trained on", "float, trained on, PTQ"]
    return table([*head, *(ESTIMATORS[name] for name in p["estimators"])], rows)


def comparisons(study: Study) -> str:
    """Tabulates the plain estimator less each other method, seed by seed, in points of test accuracy."""
    p, rows = study["protocol"], []
    others = [name for name in p["estimators"] if name != "ste"]
    for network, bits in cells(study):
        plain, more = scores(_qat(study, network, bits, "ste")), chosen(study, "more", network=network)
        cell = [paired(plain, scores(post_training(floats(study, network), bits, p["observer"])))]
        cell.append(paired(plain, scores(post_training(more, bits, p["observer"]))))
        cell.append(paired(plain, scores(more)))
        cell += [paired(plain, scores(_qat(study, network, bits, name))) for name in others]
        rows.append([NETWORK_LABELS[network], bits, *cell])
    head = ["STE less", "bits", "PTQ", "float, trained on, PTQ", "float, trained on"]
    return table([*head, *(ESTIMATORS[name] for name in others)], rows)


def dynamics(study: Study) -> str:
    """Tabulates learning rate, gradient mismatch, oscillation and latent distance of the coarse tensors."""
    measures: list[tuple[str, Callable[[Run], float | None], str]] = [
        ("cosine, differences", lambda run: run["mismatch"]["differences"], ".2f"),
        ("cosine, float gradient", lambda run: run["mismatch"]["float_gradient"], ".2f"),
        ("reversals per step, middle, %", lambda run: 100 * run["middle"]["frequency"], ".2f"),
        ("reversals per step, end, %", lambda run: 100 * run["end"]["frequency"], ".2f"),
        ("oscillating, middle, %", lambda run: 100 * run["middle"]["fraction"], ".0f"),
        ("latent distance, middle", lambda run: run["middle"]["distance"], ".3f"),
        ("latent distance, end", lambda run: run["end"]["distance"], ".3f"),
    ]
    rows = []
    for network, bits in cells(study):
        for name in study["protocol"]["estimators"]:
            runs = _qat(study, network, bits, name)
            cell = [_spread(over_seeds(runs, measure), form) for _, measure, form in measures]
            rows.append([f"{NETWORK_LABELS[network]}, {bits} bits, {ESTIMATORS[name]}", f"{runs[0]['lr']:g}", *cell])
    return table(["", "lr", *(name for name, _, _ in measures)], rows)


BLOCKS: dict[str, Callable[[Study], str]] = {
    "two_level": two_level,
    "valley": valley,
    "valley_steps": valley_steps,
    "sparse": sparse,
    "setup": setup,
    "rounding": rounding,
    "training": training,
    "comparisons": comparisons,
    "dynamics": dynamics,
}


def _qat(study: Study, network: str, bits: int, estimator: str) -> list[Run]:
    return chosen(study, "qat", network=network, bits=bits, estimator=estimator)


def _best_lr(runs: list[Run], method: str, key: str) -> list[Run]:
    """Returns the runs of the step size with the smallest mean over the seeds."""
    mine = select(runs, method=method)
    groups = [select(mine, lr=lr) for lr in dict.fromkeys(run["lr"] for run in mine)]
    return min(groups, key=lambda group: statistics.fmean(run[key] for run in group))


def _dictionary(correlation: float) -> str:
    return "Gaussian" if correlation == 0 else f"coherent, {correlation:g}"


def _spread(values: list[Any], form: str) -> str:
    return mean_sd(values, form) if values else "undefined"
