"""Records as tables for the terminal: one function per record, and nothing is computed here."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

__all__ = [
    "bench_table",
    "card_table",
    "forecast_table",
    "geometry_table",
    "prediction_table",
    "publish_table",
    "push_table",
    "quantize_table",
    "result_table",
    "search_table",
]

SHOWN_ROWS = 12


def prediction_table(predictions: Sequence[Any], *, title: str, truths: Sequence[str] = ()) -> Table:
    """Shows :class:`madzoo.workflows.classify.ImagePrediction` records, one class a row, beside the truth if known."""
    table = _table(title, "image", "class", ">probability", *(["label"] if truths else []))
    for position, found in enumerate(predictions):
        for row, (label, probability) in enumerate(zip(found.classes, found.probabilities, strict=True)):
            image, truth = (found.image, truths[position : position + 1]) if row == 0 else ("", ())
            table.add_row(image, label, f"{probability:.1%}", *truth)
        table.add_section()
    return table


def forecast_table(forecast: Any, *, title: str) -> Table:
    """Shows the first rows of a table of :func:`madzoo.forecast`: its keys, the median, the outermost quantiles."""
    ids, stamps, *_ = forecast.columns
    low, high = forecast.columns[4], forecast.columns[-1]
    table = _table(title, str(ids), str(stamps), "target", ">median", f">{low}", f">{high}")
    for row in forecast.head(SHOWN_ROWS).to_dict("records"):
        numbers = (_number(row[name]) for name in ("predictions", low, high))
        table.add_row(str(row[ids]), str(row[stamps]).removesuffix(" 00:00:00"), str(row["target_name"]), *numbers)
    if len(forecast) > SHOWN_ROWS:
        table.add_row("...", f"{len(forecast) - SHOWN_ROWS} more rows", *[""] * 4)
    return table


def result_table(row: Any) -> Table:
    """Shows a :class:`madzoo.evaluation.ResultRow`: its metrics with intervals, then its baselines."""
    table = _table(f"{row.model} on {row.n} samples of {row.dataset} {row.split}", "metric", ">value", ">95 %")
    for metric, value in row.metrics.items():
        table.add_row(metric, f"{value:.6g}", " to ".join(map(_number, row.intervals.get(metric, []))))
    for baseline, metrics in row.baselines.items():
        table.add_section()
        for metric, value in metrics.items():
            table.add_row(f"{baseline}: {metric}", f"{value:.6g}", "")
    return table


def geometry_table(report: Any, *, title: str) -> Table:
    """Shows a :class:`madzoo.geometry.GeometryReport`; a rank that the sample limited is written as a bound."""
    measured = report.local_dimension
    rank = f"≥ {measured.rank} ({measured.rows} rows)" if measured.row_limited else f"{measured.rank}"
    lines = {
        "local dimension": rank,
        "parameters": f"{measured.num_params}",
        "rows": f"{measured.rows}",
        "last singular value counted": _number(measured.sigma_r),
        "first one not counted": _number(measured.sigma_next),
        "gap, in decades": _number(measured.gap_decades),
        "lost to symmetries": f"{report.ledger.lost} ({'verified' if report.ledger.verified else 'formula'})",
        "upper bound": f"{report.ledger.upper_bound}",
        "dead, always active units": f"{report.ledger.dead_units}, {report.ledger.always_active_units}",
        "stable rank": _number(report.effective.stable_rank),
        "largest Hessian eigenvalue": _number(report.curvature.lambda_max) if report.curvature else "",
        "output": f"{measured.output}, {measured.dtype}",
        "sample": f"{report.n} of {report.dataset} {report.split}, seed {report.seed}",
    }
    table = _table(title, "what", ">value")
    for what, value in lines.items():
        table.add_row(what, value)
    return table


def card_table(cards: Sequence[Any]) -> Table:
    """Shows :class:`madzoo.workflows.demo.CardSummary` records, one number a row; what is unknown is left out."""
    table = _table("What the cards of the bundled models say", "model", "number", ">value")
    for card in cards:
        lines = {
            f"{card.metric}, {card.dataset}": _number(card.value),
            "parameters": _number(card.num_params),
            "local dimension": card.local_dimension,
            f"int8 drop in {card.rounded_metric}": _number(card.drop_8_bits),
            f"int4 drop in {card.rounded_metric}": _number(card.drop_4_bits),
        }
        known = [line for line in lines.items() if line[1]] or [("", "no report")]
        for row, line in enumerate(known):
            table.add_row("" if row else card.model, *line)
        table.add_section()
    return table


def bench_table(found: Any) -> Table:
    """Shows a :class:`madzoo.workflows.bench.Bench`: a column per model, and how the first compares to the second."""
    first = found.results[0]
    what = "training step" if first.setup.train else "inference"
    title = f"{what}, batch {first.setup.batch}, {first.threads} thread{'s' if first.threads > 1 else ''}"
    table = _table(title, "what", *(f">{result.setup.model}" for result in found.results))
    lines = {
        f"{first.unit} per second": [f"{result.per_second:.4g}" for result in found.results],
        "ms per step, median": [f"{result.milliseconds:.4g}" for result in found.results],
        "fastest to slowest": [f"{result.fastest:.4g} to {result.slowest:.4g}" for result in found.results],
        "steps timed": [str(result.rounds) for result in found.results],
        "peak memory, MiB": [
            "" if result.peak_memory is None else f"{result.peak_memory:.1f}" for result in found.results
        ],
        "input": [" x ".join(map(str, result.input_shape)) for result in found.results],
        "scan backend": [result.setup.backend for result in found.results],
        "compiled kernels": ["as found" if result.setup.kernels else "off" for result in found.results],
        "dtype": [f"{result.setup.dtype}{', optimised' if result.setup.optimize else ''}" for result in found.results],
    }
    for what, values in lines.items():
        if any(values):
            table.add_row(what, *values)
    if found.ratio is not None:
        table.add_section()
        table.add_row("first over second, per second", f"{found.ratio:.2f}x", "")
    return table


def quantize_table(found: Any) -> Table:
    """Shows a :class:`madzoo.workflows.quantize.QuantizeResult`: its validation and size beside the floats'."""
    table = _table(f"{found.name}, {found.method}", "validation", ">float weights", ">quantized", ">difference")
    for metric, value in found.before.items():
        if metric != "n":
            after = found.after[metric]
            table.add_row(metric, f"{value:.6g}", f"{after:.6g}", f"{after - value:+.3g}")
    table.add_section()
    ratio = f"{found.packed_bytes / found.float_bytes:.3f}x"
    table.add_row("bytes of weights", f"{found.float_bytes:,}", f"{found.packed_bytes:,}", ratio)
    table.caption = f"{found.before['n']:,} samples"
    return table


def push_table(found: Any) -> Table:
    """Shows a :class:`madzoo.hub.Pushed`."""
    table = _table(f"{found.name} on the Hub", "what", "value")
    table.add_row("repository", f"{found.repo}, branch {found.revision}")
    table.add_row("commit", found.commit if found.is_new else f"{found.commit} (held the folder already)")
    table.add_row("files uploaded", ", ".join(found.files) or "none")
    if found.deleted:
        table.add_row("files deleted", ", ".join(found.deleted))
    table.add_row("bytes uploaded", f"{found.bytes_uploaded:,}")
    return table


def search_table(found: Sequence[Any]) -> Table:
    """Shows :class:`madzoo.hub.Found` records, one metric a row."""
    table = _table(
        "Checkpoints on the Hub", "repository", "task", ">parameters", "licence", "data set: metric", ">value"
    )
    for record in found:
        about = (record.repo, record.task or "", _number(record.num_params), record.licence or "")
        told = {f"{name}: {key}": value for name, held in record.metrics.items() for key, value in held.items()}
        for row, (metric, value) in enumerate(told.items() or [("", None)]):
            table.add_row(*(about if row == 0 else [""] * len(about)), metric, _number(value))
        table.add_section()
    return table


def publish_table(steps: Sequence[Any]) -> Table:
    """Shows :class:`madzoo.workflows.publish.PublishStep` records, one folder a row."""
    table = _table("Checkpoint folders and the Hub", "folder", "repository", ">files", ">MB", "there", ">MB to upload")
    for step in steps:
        size = "" if step.bytes_to_upload is None else f"{step.bytes_to_upload / 1e6:.2f}"
        state = "pushed" if step.pushed else step.state
        table.add_row(
            step.folder.path.name, step.repo, f"{len(step.folder.files)}", f"{step.folder.size / 1e6:.2f}", state, size
        )
        for problem in step.problems:
            table.add_row("", problem, "", "", "", "")
    return table


def _table(title: str, *columns: str) -> Table:
    """Makes a table; a column named with ">" is aligned to the right."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value}"
