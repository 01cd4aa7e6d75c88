"""The page of the study of quantized recurrences: every number in its blocks is written from the JSON."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from madzoo.workflows.study_page import fill_page, table
from madzoo.workflows.study_sequence_figure import TITLES, draw, label_of

__all__ = ["BLOCKS", "write_page"]

Study = Mapping[str, Any]
Row = Mapping[str, Any]


def write_page(study: Study, page: Path) -> None:
    """Draws the figure beside the page and renders its blocks.

    Raises:
        DataError: when the page lacks the markers of a block, or is not there.
    """
    fill_page(study, page, blocks=BLOCKS, figures={"": lambda path: draw(study, path)})


def setup(study: Study) -> str:
    """States data, recipe and what the unrounded networks reach."""
    r, lengths = study["protocol"]["recipe"], study["protocol"]["lengths"]
    steps = r["train"] // r["batch_size"]
    planned = {name: epochs * steps for name, epochs in r["epochs"].items()}
    passes = ", ".join(f"{TITLES[name]} {r['last_step'].get(name, step)} of {step}" for name, step in planned.items())
    head = ["network", "parameters", "test", *(f"validation, {length} pixels" for length in lengths)]
    rows = [
        [TITLES[name], net["num_params"], f"{net['test']:.3f}", *(f"{value:.3f}" for value in net["validation"])]
        for name, net in study["networks"].items()
    ]
    return (
        f"{r['train']} training, {r['validation']} validation and {r['test']} test pictures of {r['dataset']}, "
        f"disjoint, as sequences of {lengths[0]} pixels. AdamW, learning rate {r['lr']:g} after {r['warmup_steps']} "
        f"steps, a cosine to zero, no weight decay, batches of {r['batch_size']}, gradient norm at most "
        f"{r['clip_norm']:g}; steps done, of those that the cosine was planned for: {passes}; one seed "
        f"({r['seed']}). Top-1 of the unrounded networks:"
        f"\n\n{table(head, rows)}\n\n"
        f"Everything below is measured on the validation pictures; the test pictures were used for the column above "
        f"and nothing else. torch {study['torch']}."
    )


def accuracy(study: Study) -> str:
    """Tabulates by how much accuracy falls, for everything that was rounded, after the whole picture."""
    bits, parts = study["protocol"]["bits"], []
    for name, network in study["networks"].items():
        rows = [
            [label, share, *(_drop(found.get(b)) for b in bits)] for (label, share), found in _groups(network).items()
        ]
        head = ["rounded alone", "scale per", *(f"{b} bits" for b in bits)]
        parts.append(
            f"{TITLES[name]}: fall of top-1 in points, with the standard error of the paired difference "
            f"(unrounded {100 * network['validation'][0]:.1f}).\n\n{table(head, rows)}"
        )
    return "\n\n".join(parts)


def error(study: Study) -> str:
    """Tabulates the relative error of the logits against the number of pixels read, at 8 and at 4 bits."""
    lengths, parts = study["protocol"]["lengths"], []
    for name, network in study["networks"].items():
        rows = []
        for (label, share), found in _groups(network).items():
            shown = [found.get(b) for b in (8, 4)]
            rows.append([label, share, *(_distance(row, k) for row in shown for k in range(len(lengths)))])
        head = ["rounded alone", "scale per", *(f"{b} bits, {length}" for b in (8, 4) for length in lengths)]
        parts.append(f"{TITLES[name]}: relative error of the logits after so many pixels.\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def growth(study: Study) -> str:
    """States how much the error at 8 bits grows from the shortest to the longest reading, part by part."""
    lengths, lines = study["protocol"]["lengths"], []
    for name, network in study["networks"].items():
        grown = []
        for (label, share), found in _groups(network).items():
            ends = (found[8]["distance"][0], found[8]["distance"][-1]) if 8 in found else (None, None)
            if ends[0] and ends[1]:
                grown.append((ends[0] / ends[1], f"{label} per {share} {ends[0] / ends[1]:.2g}"))
        grown.sort(reverse=True)
        lines.append(f"- {TITLES[name]}: " + "; ".join(text for _, text in grown) + ".")
    return (
        f"The relative error at 8 bits after {lengths[0]} pixels over that after {lengths[-1]}, largest first:\n\n"
        + "\n".join(lines)
    )


def decay(study: Study) -> str:
    """Tabulates which share of the factors exp(dt A) no longer decays once rounded."""
    bits = study["protocol"]["bits"]
    rows = [
        [TITLES[name], *(f"{100 * net['without_decay'][str(b)]:.3g} %" for b in bits)]
        for name, net in study["networks"].items()
    ]
    return table(["factors of absolute value 1 or more, rounded", *(f"{b} bits" for b in bits)], rows)


BLOCKS: dict[str, Callable[[Study], str]] = {
    "setup": setup,
    "accuracy": accuracy,
    "decay": decay,
    "error": error,
    "growth": growth,
}


def _groups(network: Mapping[str, Any]) -> dict[tuple[str, str], dict[int, Row]]:
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    for row in network["rows"]:
        label = label_of(row["part"], row["share"]).partition(", per ")[0]
        groups.setdefault((label, row["share"]), {})[row["bits"]] = row
    return groups


def _drop(row: Row | None) -> str:
    return "" if row is None else f"{100 * row['drop'][0]:.1f} ± {100 * row['drop_error'][0]:.1f}"


def _distance(row: Row | None, place: int) -> str:
    if row is None:
        return ""
    value: Sequence[float | None] = row["distance"]
    found = value[place]
    return "diverges" if found is None else f"{found:.2g}"
