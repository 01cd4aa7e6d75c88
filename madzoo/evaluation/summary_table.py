"""Many models on many benchmarks as Markdown: a table per family, the baselines beside every model."""

from collections.abc import Iterable, Sequence

from madzoo.evaluation.result import ResultRow

__all__ = ["summary_table"]

TITLES = {"images": "Images", "ltsf": "Long horizons (z-scores, every window)", "fev": "fev-bench's tasks of ETT"}
TITLES |= {"monash": "Competition sets"}
SHOWN = {"images": ("top1", "nll", "ece"), "ltsf": ("mse", "mae"), "fev": ("sql", "mase"), "monash": ("mase", "sql")}
LABELS = {"top1": "top-1", "nll": "NLL", "ece": "ECE"}
BASELINES = {"last_value": "last value", "seasonal_naive": "seasonal naive", "linear": "linear"}
PERCENT = ("top1", "top5")


def summary_table(rows: Iterable[ResultRow]) -> str:
    """Returns one Markdown table per family of benchmarks that occurs, the best model of a benchmark first.

    Models that have seen test rows stand behind all others of their benchmark.

    Forecasts show their two main errors, a slash between, and so do the baselines. ``seen`` says what a model has seen:
    ``test`` rows (its number is no forecast of new data), ``train`` rows of the same data, ``-`` nothing, ``?``
    unknown.
    """
    rows = list(rows)
    parts = []
    for family, title in TITLES.items():
        if mine := [row for row in rows if _family(row) == family]:
            lines = _images(mine) if family == "images" else _forecasts(mine, SHOWN[family])
            parts.append(f"**{title}**\n\n{_markdown(lines)}")
    return "\n".join(parts)


def _family(row: ResultRow) -> str:
    if row.task == "image-classification":
        return "images"
    named = row.benchmark.partition("-")[0]
    return named if named in TITLES else "ltsf"


def _images(rows: Sequence[ResultRow]) -> list[list[str]]:
    names = SHOWN["images"]
    lines = [["benchmark", "n", "model", *(LABELS[name] for name in names), "95 % of top-1", "seen"]]
    for row in _sorted(rows, "top1", sign=-1):
        low, high = row.intervals.get("top1", [0.0, 1.0])
        cells = [_number(name, row.metrics.get(name)) for name in names]
        between = f"{_number('top1', low)} to {_number('top1', high)}"
        lines.append([row.benchmark, f"{row.n:,}", f"`{row.model}`", *cells, between, _seen(row)])
    return lines


def _forecasts(rows: Sequence[ResultRow], names: Sequence[str]) -> list[list[str]]:
    head = " / ".join(name.upper() for name in names)
    lines = [["benchmark", "n", "model", head, *BASELINES.values(), "seen"]]
    for row in _sorted(rows, names[0], sign=1):
        cells = [_numbers(row.metrics, names), *(_numbers(row.baselines.get(name, {}), names) for name in BASELINES)]
        lines.append([row.benchmark, f"{row.n:,}", f"`{row.model}`", *cells, _seen(row)])
    return lines


def _sorted(rows: Sequence[ResultRow], metric: str, *, sign: int) -> list[ResultRow]:
    order = {name: place for place, name in enumerate(dict.fromkeys(row.benchmark for row in rows))}

    def place(row: ResultRow) -> tuple[int, bool, float, str]:
        return order[row.benchmark], bool(row.testdata_leakage), sign * row.metrics.get(metric, 0.0), row.model

    return sorted(rows, key=place)


def _seen(row: ResultRow) -> str:
    if row.testdata_leakage is None and row.trained_on_this_dataset is None:
        return "?"
    return "test" if row.testdata_leakage else "train" if row.trained_on_this_dataset else "-"


def _numbers(metrics: dict[str, float], names: Sequence[str]) -> str:
    return " / ".join(_number(name, metrics.get(name)) for name in names) if metrics else ""


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if name in PERCENT else f"{value:.4f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
