"""How the pages write numbers: three decimals of an error, two of a percentage, units in the header."""

from collections.abc import Mapping

from madzoo.workflows.leaderboard_benchmarks import ASIDE, HIGHER_IS_BETTER
from madzoo.workflows.leaderboard_facts import Drop, ModelFacts

__all__ = ["METRICS", "cost", "dimension", "interval", "label", "meaning", "millions", "number", "score", "spread"]

DASH, MINUS = "\u2013", "\u2212"
METRICS: Mapping[str, tuple[str, str]] = {
    "top1": ("Top-1, %", "share of images whose likeliest class is the right one"),
    "top5": ("Top-5, %", "share of images whose right class is among the five likeliest"),
    "nll": ("NLL, nats", "mean negative log-likelihood of the right class"),
    "ece": ("ECE", "expected calibration error: how far confidence is from accuracy"),
    "mse": ("MSE", "mean squared error"),
    "mae": ("MAE", "mean absolute error"),
    "mase": ("MASE", "mean absolute error in units of the seasonal naive forecast's on the training part"),
    "sql": ("SQL", "quantile loss, scaled as MASE is"),
    "wql": ("WQL", "quantile loss over the sum of absolute values"),
    "wape": ("WAPE", "absolute error over the sum of absolute values"),
    "smape": ("sMAPE", "symmetric mean absolute percentage error, as a fraction"),
    "coverage_80": ("In 80 % band", "share of values between the 10 % and the 90 % quantile; 80 % is right"),
}


def label(metric: str) -> str:
    """Returns a metric's column heading."""
    return METRICS.get(metric, (metric, ""))[0]


def meaning(metric: str) -> str:
    """Returns what a metric is, in words; empty where unknown."""
    return METRICS.get(metric, (metric, ""))[1]


def score(metric: str, value: float | None) -> str:
    r"""Returns a metric's value: a percentage without its sign, or three decimals; an en dash where it is missing.

    Example:
        >>> score("top1", 0.8913), score("mse", 0.36546), score("mse", None)
        ('89.13', '0.365', '\u2013')
    """
    if value is None:
        return DASH
    if metric in ASIDE:
        return f"{100 * value:.1f} %"
    return f"{100 * value:.2f}" if metric in HIGHER_IS_BETTER else number(value)


def number(value: float | None) -> str:
    """Returns three decimals, or three digits where that would say nothing."""
    if value is None:
        return DASH
    return f"{value:.3g}" if value and not 0.0005 <= abs(value) < 1e5 else f"{value:,.3f}"


def interval(metric: str, edges: tuple[float, float] | None) -> str:
    """Returns an interval, an en dash between its edges; empty where there is none."""
    return "" if edges is None else f"{score(metric, edges[0])} {DASH} {score(metric, edges[1])}"


def spread(metric: str, deviation: float | None, seeds: int) -> str:
    """Returns a standard deviation over seeds with their number, to the digits of the score.

    Example:
        >>> spread("sql", 0.00101, 3), spread("mse", 0.0000317, 3)
        ('± 0.001 (3)', '< 0.001 (3)')
    """
    if deviation is None:
        return ""
    is_fraction = metric in HIGHER_IS_BETTER
    value, digits = (100 * deviation, 2) if is_fraction else (deviation, 3)
    least = 10.0**-digits
    return f"< {least:g} ({seeds})" if value < least / 2 else f"± {value:.{digits}f} ({seeds})"


def millions(value: int | None, *, digits: int = 2) -> str:
    """Returns a count in millions."""
    return DASH if value is None else f"{value / 1e6:,.{digits}f}"


def cost(drop: Drop | None) -> str:
    """Returns what rounding costs, with its sign and unit; no sign where nothing is left of it."""
    if drop is None or drop.value is None:
        return DASH
    digits, unit = (2, "pt") if drop.points is not None else (1, "%")
    text = f"{drop.value:+.{digits}f}"
    return f"{text.replace('-', MINUS) if float(text) else text[1:]} {unit}"


def dimension(facts: ModelFacts) -> str:
    """Returns the measured local dimension, as a bound where the sample limited it."""
    if facts.rank is None:
        return DASH
    return f"{'≥ ' if facts.row_limited else ''}{facts.rank:,}"
