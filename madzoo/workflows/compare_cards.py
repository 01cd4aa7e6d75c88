"""The numbers of the cards beside those that were measured anew, and whether they agree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from madzoo.evaluation import ResultRow
from madzoo.workflows.card_rows import bundled_models, card_rows

__all__ = ["CardNumber", "card_report", "compare_with_cards"]

FRACTIONS = ("top1", "top5", "ece", "coverage_80")  # shown in per cent
POINT = 1e-4  # 0.01 of a percentage point
RELATIVE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class CardNumber:
    """Sets one number of a card beside the measured one.

    Attributes:
        model, benchmark: what is measured on what.
        scored: ``"model"``, or the name of a baseline.
        metric: its name.
        card, measured: the two values; measured is None where no row of the same weights and data was found.
        tolerance: how far they may lie apart: 0.01 of a percentage point of a fraction, else 1e-4 of the card's value.
    """

    model: str
    benchmark: str
    scored: str
    metric: str
    card: float
    measured: float | None
    tolerance: float

    @property
    def difference(self) -> float | None:
        """Measured less card; None where nothing was measured."""
        return None if self.measured is None else self.measured - self.card

    @property
    def agrees(self) -> bool:
        """Whether the two lie within the tolerance."""
        return self.difference is not None and abs(self.difference) <= self.tolerance


def compare_with_cards(rows: Sequence[ResultRow], *, pattern: str = "*") -> list[CardNumber]:
    """Returns every number that the cards of the bundled models report on registered benchmarks, baselines included.

    A measured row counts only when it is of the same weights and has the same number of samples.

    Args:
        rows: measured ones.
        pattern: a shell pattern of the models' full names.

    Raises:
        CheckpointError, ConfigError: when a card's evaluation.json is damaged.
    """
    measured = {(row.model, row.benchmark, row.weights_sha256, row.n): row for row in rows}
    numbers = []
    for name in bundled_models(pattern):
        for benchmark, card in card_rows(name).items():
            row = measured.get((name, benchmark, card.weights_sha256, card.n))
            numbers += _numbers(name, benchmark, card, row)
    return numbers


def card_report(numbers: Sequence[CardNumber]) -> str:
    """Returns a Markdown table, a line per number, and a last line that counts those that do not agree."""
    lines = [["model", "benchmark", "scored", "metric", "card", "measured", "difference", ""], ["---"] * 8]
    for one in numbers:
        found = ["", ""] if one.measured is None else [f"{one.measured:.6f}", f"{one.difference:+.1e}"]
        verdict = "" if one.agrees else "not measured" if one.measured is None else "**differs**"
        lines.append([one.model, one.benchmark, one.scored, one.metric, f"{one.card:.6f}", *found, verdict])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    missing = sum(one.measured is None for one in numbers)
    differing = sum(not one.agrees for one in numbers) - missing
    return f"{table}\n{len(numbers)} numbers of the cards: {differing} differ, {missing} were not measured.\n"


def _numbers(name: str, benchmark: str, card: ResultRow, row: ResultRow | None) -> Iterator[CardNumber]:
    scored: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
        "model": (card.metrics, row.metrics if row else {}),
        **{key: (metrics, row.baselines.get(key, {}) if row else {}) for key, metrics in card.baselines.items()},
    }
    for who, (told, found) in scored.items():
        for metric, value in told.items():
            yield CardNumber(
                model=name,
                benchmark=benchmark,
                scored=who,
                metric=metric,
                card=value,
                measured=found.get(metric),
                tolerance=POINT if metric in FRACTIONS else RELATIVE * abs(value),
            )
