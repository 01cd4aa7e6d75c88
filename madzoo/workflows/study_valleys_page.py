"""The page of the valley study: every number in it is written from the JSON, between markers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from madzoo.workflows.study_page import fill_page
from madzoo.workflows.study_valleys_figures import NETWORK_LABELS, draw_known, draw_training, select
from madzoo.workflows.study_valleys_known import KNOWN, signed
from madzoo.workflows.study_valleys_tables import REAL, last, rounded

__all__ = ["BLOCKS", "write_page"]

Study = Mapping[str, Any]
Record = Mapping[str, Any]


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


def summary(study: Study) -> str:
    """Writes the answers that are numbers."""
    toys, p = study["toys"], study["protocol"]
    stay = [run for run in toys["edge"] if run["diverged_at"] < 0]
    errors = [r["measured"] / r["predicted"] - 1 for r in toys["slides"] if r["measured"]]
    leading = [r["leading"] / r["measured"] - 1 for r in toys["slides"] if r["measured"]]
    squares = [r["squares"] for r in toys["rests"] if r["squares"]]
    lines = [
        f"- Gradient descent on (ab - 1)² / 2 came to rest {len(stay)} times, never above 2 / lr: the largest "
        f"sharpness there, times lr / 2, is {max(r['sharpness'][-1] * r['lr'] / 2 for r in stay):.3f}.",
        f"- Label noise: over {len(errors)} pairs of lr and sigma the measured rate differs from the predicted one by "
        f"{signed(min(errors))} to {signed(max(errors))}; the leading order lr² sigma² by {min(leading):+.1%} to "
        f"{max(leading):+.1%}. Afterwards the mean of a² + b² is {min(squares):.3f} to {max(squares):.3f}; the "
        "flattest point has 2.",
    ]
    for network in p["networks"]:
        plain, noisy = last(study, network, "minibatch"), last(study, network, "label")
        if plain and len(plain) == len(noisy):
            lines.append(f"- {NETWORK_LABELS[network]}, label noise against none: {_against(plain, noisy, p['bits'])}.")
    worst = max(r["share"] for r in study["overhead"])
    return "\n".join(
        [*lines, f"- Probes at the default cadence cost at most {worst:.1%} of the training measured here."]
    )


def setup(study: Study) -> str:
    """States data, sizes and cost of the real part."""
    p = study["protocol"]
    fits = [select(study["runs"], kind="fit", network=network)[0] for network in p["networks"]]
    sizes = ", ".join(f"{NETWORK_LABELS[r['network']]} {r['num_params']}" for r in fits)
    return (
        f"{p['train']} training pictures of {p['dataset']} at half size, a row a step, 10 answers each: "
        f"{fits[0]['end']['rows']} residuals of squares on one-hot labels. Parameters: {sizes}. Tested on {p['test']} "
        f"pictures. Seeds {', '.join(map(str, p['seeds']))}, of initialisation, order and noise; none dropped.\n\n"
        f"Cost of the whole study: {study['cost']['cpu_seconds'] / 60:.0f} minutes of processor time, one thread, on a "
        f"busy machine; torch {study['cost']['torch']}."
    )


BLOCKS: dict[str, Callable[[Study], str]] = {"summary": summary, "setup": setup} | KNOWN | REAL


def _against(plain: Sequence[Record], noisy: Sequence[Record], bits: Sequence[int]) -> str:
    """Writes by what the noise multiplies flatness and rounding, and what it adds to accuracy, as ranges over seeds."""
    pairs = list(zip(plain, noisy, strict=True))

    def span(values: list[float], form: str) -> str:
        return f"{min(values):{form}} to {max(values):{form}}"

    parts = [f"λ_max times {span([b['lambda_max'] / a['lambda_max'] for a, b in pairs], '.2f')}"]
    for k in bits:
        ratios = [rounded(b, k)["loss"] / rounded(a, k)["loss"] for a, b in pairs]
        parts.append(f"loss at {k} bits times {span(ratios, '.2f')}")
    gains = [100 * (b["accuracy"] - a["accuracy"]) for a, b in pairs]
    return ", ".join([*parts, f"test accuracy {span(gains, '+.1f')} points"])
