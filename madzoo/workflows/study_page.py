"""The page of the study of the local dimension: every number in it is written from the JSON, between markers."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from madzoo.errors import DataError
from madzoo.workflows.study_figures import CONVENTIONS, LABELS, draw_conventions, draw_properties, draw_training
from madzoo.workflows.study_networks import LOST
from madzoo.workflows.study_statistics import PROPERTIES, correlations, last, mean_kept

__all__ = ["BLOCKS", "fill_page", "render_page", "table", "write_page"]

Study = Mapping[str, Any]
Groups = dict[str, list[Mapping[str, Any]]]
PUBLISHED = "relu_mlp_sgd"


def write_page(study: Study, page: Path) -> None:
    """Draws the figures beside the page and renders its blocks.

    Raises:
        DataError: when the page lacks the markers of a block, or is not there.
    """
    groups = by_network(study)
    figures = {
        "_training": lambda path: draw_training(groups, path),
        "_properties": lambda path: draw_properties(common(groups), path),
        "_conventions": lambda path: draw_conventions(groups, path),
    }
    fill_page(study, page, blocks=BLOCKS, figures=figures)


def fill_page(
    study: Study,
    page: Path,
    *,
    blocks: Mapping[str, Callable[[Study], str]],
    figures: Mapping[str, Callable[[Path], None]],
) -> None:
    """Draws a study's figures beside its page and writes the page's blocks.

    Args:
        study: the values.
        page: the file, with the markers of every block.
        blocks: what to write, by name.
        figures: what draws each figure, by what its file's name has after the page's.

    Raises:
        DataError: when the page lacks the markers of a block, or is not there.
    """
    if not page.is_file():
        raise DataError("the page that holds the markers is missing.", asked=page)
    for ending, draw in figures.items():
        draw(page.with_name(f"{page.stem}{ending}.png"))
    page.write_text(render_page(study, page.read_text(), blocks))


def render_page(study: Study, text: str, blocks: Mapping[str, Callable[[Study], str]] | None = None) -> str:
    """Replaces what stands between ``<!-- study:NAME:begin -->`` and ``<!-- study:NAME:end -->``, for every block.

    Args:
        study: the values.
        text: the page.
        blocks: what to write, by name; those of this study, :data:`BLOCKS`, by default.

    Raises:
        DataError: when a block has no markers.
    """
    for name, render in (BLOCKS if blocks is None else blocks).items():
        begin, end = (f"<!-- study:{name}:{what} -->" for what in ("begin", "end"))
        before, found, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise DataError("a block has no place in the page.", asked=name, todo=f"the lines {begin} and {end}")
        text = f"{before}{begin}\n\n{render(study)}\n\n{end}{after}"
    return text


def by_network(study: Study) -> Groups:
    """Sorts the runs by network."""
    groups: Groups = {}
    for run in study["runs"]:
        groups.setdefault(run["network"], []).append(run)
    return groups


def common(groups: Groups) -> Groups:
    """Returns the networks that share one recipe."""
    return {name: runs for name, runs in groups.items() if name != PUBLISHED}


def setup(study: Study) -> str:
    """States data, recipe, sizes and cost."""
    p, groups = study["protocol"], by_network(study)
    rows = next(iter(groups.values()))[0]["records"][0]["rank"]["rows"]
    sizes = {name: runs[0]["records"][0]["rank"]["num_params"] for name, runs in common(groups).items()}
    counted = ", ".join(f"{LABELS[name]} {size}" for name, size in sizes.items())
    spread = max(sizes.values()) / min(sizes.values()) - 1
    processor = sum(run["cpu_seconds"] for run in study["runs"]) / 60
    return (
        f"{p['train']} training, {p['validation']} validation and {p['test']} test pictures of {p['dataset']}, "
        f"disjoint, averaged to 8 x 8; seeds {', '.join(map(str, p['seeds']))}, none dropped. "
        f"Parameters: {counted} (the largest has {spread:.1%} more than the smallest). Rows of the Jacobian: {rows}."
        "\n\n"
        f"Common recipe: Adam, learning rate {p['lr']:g}, batches of {p['batch_size']}, {p['epochs'][-1]} epochs. "
        f"Published recipe, for the ReLU MLP alone: SGD, learning rate {p['sgd_lr']:g}, batches of "
        f"{p['sgd_batch_size']}, {p['sgd_epochs'][-1]} epochs. No weight decay, augmentation or schedule in either.\n\n"
        f"Cost: {processor:.0f} minutes of one core in all, {study['cost']['seconds'] / 60:.0f} minutes with "
        f"{study['cost']['workers']} processes on a machine with other work; torch {study['cost']['torch']}."
    )


def training(study: Study) -> str:
    """Tabulates the rank of every run at every measured epoch."""
    parts = []
    for title, groups in (("Common recipe", common(by_network(study))), ("Published recipe", _published(study))):
        epochs = [record["epoch"] for record in next(iter(groups.values()))[0]["records"]]
        head = ["network", "seed", *(f"epoch {epoch}" for epoch in epochs), "end - start", "inactive, start / end"]
        rows = []
        for name, runs in groups.items():
            for run in runs:
                ranks = [record["rank"] for record in run["records"]]
                change = f"{ranks[-1]['rank'] - ranks[0]['rank']:+d}"
                inactive = f"{ranks[0]['inactive']} / {ranks[-1]['inactive']}"
                rows.append([LABELS[name], run["seed"], *(r["rank"] for r in ranks), change, inactive])
        parts.append(f"{title}: local dimension on the training pictures.\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def verdict(study: Study) -> str:
    """Counts in how many runs the rank falls, in how many all the way, and in how many it meets its ceiling."""
    lines = []
    for name, runs in by_network(study).items():
        paths = [[record["rank"]["rank"] for record in run["records"]] for run in runs]
        ceiling = runs[0]["records"][0]["rank"]["num_params"] - LOST[name.removesuffix("_sgd")]
        counts = [
            sum(path[1] < path[0] for path in paths),
            sum(path[-1] < path[0] for path in paths),
            sum(all(b <= a for a, b in itertools.pairwise(path)) and path[-1] < path[0] for path in paths),
            sum(path[-1] == ceiling for path in paths),
        ]
        changes = [path[-1] / path[0] - 1 for path in paths]
        lines.append([LABELS[name], len(runs), *counts, ceiling, f"{min(changes):+.1%} to {max(changes):+.1%}"])
    head = ["network", "runs", "lower at the second measurement", "lower at the end", "falls without ever rising"]
    head += ["at the ceiling at the end", "ceiling", "change"]
    total = [sum(line[i] for line in lines) for i in range(1, 6)]
    return table(head, [*lines, ["all", *total, "", ""]])


def active(study: Study) -> str:
    """States how much of the perceptrons' rank the active parameters explain."""
    lines = []
    for name in ("relu_mlp", PUBLISHED):
        runs = by_network(study)[name]
        for where, index in (("at initialisation", 0), ("at the end", -1)):
            ranks = [run["records"][index]["rank"] for run in runs]
            plain = [r["rank"] / r["num_params"] for r in ranks]
            kept = [r["rank"] / (r["num_params"] - r["inactive"]) for r in ranks]
            lines.append([LABELS[name], where, *(f"{min(x):.3f} to {max(x):.3f}" for x in (plain, kept))])
    return table(["network", "", "rank / P", "rank / (P - inactive)"], lines)


def flatness(study: Study) -> str:
    """Tabulates the Hessian and the noise of the gradient at every measured epoch, mean over the seeds."""
    rows = []
    for name, runs in by_network(study).items():
        for index, record in enumerate(runs[0]["records"]):
            found = [run["records"][index]["curvature"] for run in runs]
            means = [statistics.fmean(c[key] for c in found) for key in ("loss", "lambda_max", "trace")]
            error = statistics.fmean(c["trace_stderr"] for c in found)
            defined = [c["noise_scale"] for c in found if c["noise_scale"] is not None]
            noise = f"{statistics.median(defined):.3g} ({len(defined)} of {len(found)})" if defined else "undefined"
            cells = [f"{means[0]:.3g}", f"{means[1]:.3g}", f"{means[2]:.3g} ± {error:.2g}", noise]
            rows.append([LABELS[name], record["epoch"], *cells])
    head = ["network", "epoch", "training loss", "largest eigenvalue", "trace", "noise scale, median (defined in)"]
    return table(head, rows)


def conditioning(study: Study) -> str:
    """Tabulates how clear the ranks are: the smallest direction counted, the largest not counted, looser thresholds."""
    rows = []
    for name, runs in common(by_network(study)).items():
        ends = [last(run)["rank"] for run in runs]
        counted = min(end["smallest_counted"] for end in ends)
        missed = max(end["largest_not_counted"] or 0.0 for end in ends)
        means = [statistics.fmean(end["rank_at"][key] for end in ends) for key in ("1e-10", "1e-6", "1e-3")]
        mean = statistics.fmean(end["rank"] for end in ends)
        rows.append([LABELS[name], f"{counted:.1e}", f"{missed:.1e}", f"{mean:.0f}", *(f"{m:.0f}" for m in means)])
    head = ["network", "smallest counted", "largest not counted", "rank", "above 1e-10", "above 1e-6", "above 1e-3"]
    return table(head, rows)


def conventions(study: Study) -> str:
    """Tabulates the rank at the start and at the end under the four conventions, and how they differ."""
    rows, means = [], []
    for name, runs in by_network(study).items():
        ends = [(run["records"][0]["conventions"], run["records"][-1]["conventions"]) for run in runs]
        for run, (start, end) in zip(runs, ends, strict=True):
            rows.append([LABELS[name], run["seed"], *(f"{start[key]} → {end[key]}" for key in CONVENTIONS)])
        changes = [statistics.fmean(end[key] - start[key] for start, end in ends) for key in CONVENTIONS]
        over = [e["logits_float32"] - e["logits_float64"] for pair in ends for e in pair]
        lost = [[pair[i]["logits_float64"] - pair[i]["softmax_float64"] for pair in ends] for i in (0, 1)]
        spans = [f"{min(x)} to {max(x)}" for x in (over, *lost)]
        means.append([LABELS[name], *(f"{change:+.0f}" for change in changes), *spans])
    head = ["mean change", *CONVENTIONS.values(), "float32 counts too many by"]
    head += ["softmax loses, start", "softmax loses, end"]
    return f"{table(['network', 'seed', *CONVENTIONS.values()], rows)}\n\n{table(head, means)}"


def properties(study: Study) -> str:
    """Tabulates what was measured at the end, as mean and range over the seeds."""
    measures: dict[str, tuple[Callable[[Any], float], str]] = {
        "rank / (P - inactive)": (_active_share, ".3f"),
        "train": (lambda run: last(run)["train"], ".3f"),
        "test": (lambda run: last(run)["test"], ".3f"),
        "gap": (PROPERTIES["generalisation gap"], ".3f"),
        "largest eigenvalue": (PROPERTIES["largest eigenvalue"], ".3g"),
        "trace": (PROPERTIES["trace of the Hessian"], ".3g"),
        "kept, pruning": (lambda run: mean_kept(run, "pruning"), ".3f"),
        "kept, rounding": (lambda run: mean_kept(run, "quantization"), ".3f"),
    }
    rows = []
    for name, runs in by_network(study).items():
        cells = [_range([measure(run) for run in runs], form) for measure, form in measures.values()]
        rows.append([LABELS[name], *cells])
    return table(["network", *measures], rows)


def tolerances(study: Study) -> str:
    """Tabulates test accuracy after pruning and after rounding, mean over the seeds."""
    p = study["protocol"]
    head = [
        "network",
        "as trained",
        *(f"{ratio:.0%} pruned" for ratio in p["ratios"]),
        *(f"{b} bits" for b in p["bits"]),
    ]
    rows = []
    for name, runs in by_network(study).items():
        kinds = [("pruning", ratio) for ratio in p["ratios"]] + [("quantization", b) for b in p["bits"]]
        means = [statistics.fmean(run["tolerance"][kind][str(key)] for run in runs) for kind, key in kinds]
        plain = statistics.fmean(last(run)["test"] for run in runs)
        rows.append([LABELS[name], f"{plain:.3f}", *(f"{mean:.3f}" for mean in means)])
    return table(head, rows)


def correlated(study: Study) -> str:
    """Tabulates Spearman's rho of the dimension share with every property, over all runs and within networks."""
    found = correlations([run for runs in common(by_network(study)).values() for run in runs])
    rows = [
        [name, f"{pooled.rho:+.2f}", f"{pooled.p:.3f}", f"{within.rho:+.2f}", f"{within.p:.3f}"]
        for name, (pooled, within) in found.items()
    ]
    n, tests = next(iter(found.values()))[0].n, 2 * len(found)
    line = (
        f"n = {n} runs of {len(common(by_network(study)))} networks. {tests} correlations are looked at: by "
        f"Bonferroni's rule one is noteworthy below p = {0.05 / tests:.4f}."
    )
    return f"{table(['property at the end', 'rho, all runs', 'p', 'rho, within networks', 'p'], rows)}\n\n{line}"


BLOCKS: dict[str, Callable[[Study], str]] = {
    "setup": setup,
    "training": training,
    "verdict": verdict,
    "active": active,
    "conditioning": conditioning,
    "flatness": flatness,
    "conventions": conventions,
    "properties": properties,
    "tolerances": tolerances,
    "correlations": correlated,
}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table; the first column is text."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _published(study: Study) -> Groups:
    return {PUBLISHED: by_network(study)[PUBLISHED]}


def _active_share(run: Mapping[str, Any]) -> float:
    rank = last(run)["rank"]
    return rank["rank"] / (rank["num_params"] - rank["inactive"])


def _range(values: Sequence[float], form: str) -> str:
    return f"{statistics.fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"
