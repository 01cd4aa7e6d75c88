"""Tables how well predicted and measured rises of the loss agree, from the quantization.json of bundled checkpoints.

    python scripts/table_sensitivity.py [FOLDERS] [--bits 4]

``halves`` is the rank correlation of the rises measured on one half of the samples with those on the other. ``ceiling``
is what a perfect prediction would reach on average, the square root of the reliability 2 h / (1 + h) of the whole
sample (Spearman 1910, Brown 1910). ``within error`` counts groups whose measured rise is within one standard error of
zero; windows that overlap have no known error. ``top 3`` is the share of all measured rises (falls left out) that the
three groups predicted largest account for.
"""

import argparse
import math
from pathlib import Path

from madzoo.checkpoint.report_files import QUANTIZATION_FILE, read_report
from madzoo.quantization.sensitivity_record import SensitivityReport

CARDS = Path(__file__).parents[1] / "model_cards"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=sorted(CARDS.iterdir()))
    parser.add_argument("--bits", type=int, default=4)
    args = parser.parse_args()
    heads = (
        "checkpoint",
        "groups",
        "by curvature along Δw",
        "by mean curvature",
        "halves",
        "ceiling",
        "top 3",
        "within error",
    )
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for folder in args.folders:
        if values := read_report(folder, QUANTIZATION_FILE):
            print(_row(folder.name, SensitivityReport.from_dict(values), args.bits))


def _row(name: str, report: SensitivityReport, bits: int) -> str:
    ranking = next(r for r in report.ranking if r.bits == bits)
    half = ranking.between_halves
    ceiling = None if half is None or half <= 0 else math.sqrt(2 * half / (1 + half))
    numbers = [ranking.spearman, ranking.spearman_trace, half, ceiling]
    cells = ["" if value is None else f"{value:.2f}" for value in numbers]
    tail = f"{_top(report, bits, 3):.0%} | {_within_error(report, bits)}"
    return f"| `{name}` | {len(report.groups)} | {' | '.join(cells)} | {tail} |"


def _top(report: SensitivityReport, bits: int, count: int) -> float:
    entries = [entry for group in report.groups for entry in group.entries if entry.bits == bits]
    ranked = sorted(entries, key=lambda entry: -(entry.predicted_quadratic or 0.0))
    rises = [max(entry.delta_loss or 0.0, 0.0) for entry in ranked]
    return sum(rises[:count]) / sum(rises)


def _within_error(report: SensitivityReport, bits: int) -> str:
    entries = [entry for group in report.groups for entry in group.entries if entry.bits == bits]
    errors = [(entry.delta_loss, entry.delta_loss_standard_error) for entry in entries]
    if any(rise is None or error is None for rise, error in errors):
        return ""
    return f"{sum(abs(rise) <= error for rise, error in errors if rise is not None and error is not None)}"


if __name__ == "__main__":
    main()
