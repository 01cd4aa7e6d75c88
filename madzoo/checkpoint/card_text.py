"""How a card writes numbers and tables."""

from typing import Any

__all__ = ["FRACTIONS", "LABELS", "number", "percent", "samples", "show", "table"]

FRACTIONS = {"top1": "top-1", "top5": "top-5"}
LABELS = FRACTIONS | {"mse": "MSE", "mae": "MAE", "nll": "NLL (nats)", "ece": "ECE"}


def samples(count: int) -> str:
    """Returns a count of samples in words."""
    return "one sample" if count == 1 else f"{count:,} samples"


def show(metric: str, value: float | None, *, digits: int = 4) -> str:
    """Returns a metric in so many digits, as per cent where it is a fraction."""
    return percent(value) if metric in FRACTIONS else number(value, digits=digits)


def percent(value: float | None) -> str:
    """Returns a fraction as per cent, a dash where it is missing."""
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: Any, *, digits: int = 4) -> str:
    """Returns so many digits, a dash where it is missing."""
    return "-" if value is None else f"{value:.{digits}g}"


def table(lines: list[list[str]]) -> str:
    """Returns a Markdown table whose first line is the header."""
    header, *body = lines
    return "\n".join(["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]])
