"""The generated blocks of a card, each a pure function of the folder's records to Markdown."""

import statistics
from collections.abc import Callable, Mapping

from madzoo.checkpoint.card_packing import packing_text
from madzoo.checkpoint.card_records import CardRecords, Evaluation, Geometry, Row
from madzoo.checkpoint.card_sensitivity import QUANTIZATION_PLOT, sensitivity_text
from madzoo.checkpoint.card_text import LABELS, number, samples, show, table

__all__ = ["BLOCKS", "GEOMETRY_PLOT", "HEADINGS", "QUANTIZATION_PLOT"]

GEOMETRY_PLOT = "geometry.png"
INTERVALS = {
    "image-classification": "Brackets: 95 % Wilson interval.",
    "time-series-forecasting": "Brackets: 95 % block bootstrap over the period, for one trained model.",
}


def summary(records: CardRecords) -> str:
    """Says what the model is."""
    cfg = records.config.pretrained_cfg
    what = {"image-classification": "classifies images", "time-series-forecasting": "forecasts time series"}[
        records.task
    ]
    size = f", {records.geometry.params.total:,} parameters" if records.geometry else ""
    trained = f", trained on {_training_data(cfg['dataset'])}" if cfg.get("dataset") else ""
    lines = [f"`{records.name}` {what}: a model of the madzoo library{size}{trained}."]
    if cfg.get("input_size"):
        channels, height, width = cfg["input_size"]
        lines.append(
            f"Input {channels} x {height} x {width}; {len(cfg.get('class_names') or ()) or 'unnamed'} classes."
        )
    if cfg.get("source"):
        lines.append(f"Published at {cfg['source']}.")
    return "\n".join(lines)


def _training_data(dataset: str) -> str:
    """Names the data; ``generator+recordings`` are synthetic series beside recorded ones."""
    generator, _, recordings = dataset.partition("+")
    if not generator.startswith("synthetic"):
        return dataset
    return f"synthetic series and recordings of {recordings}" if recordings else "synthetic series alone"


def usage(records: CardRecords) -> str:
    """Shows the shortest useful call."""
    if records.task == "image-classification":
        code = (
            f'model = madzoo.create_model("{records.name}", pretrained=True).eval()\n'
            'image = madzoo.create_transform(model)(Image.open("picture.png"))\n'
            "probabilities = model(image[None]).softmax(-1)"
        )
        code = f"from PIL import Image\n\n{code}"
    else:
        code = (
            'table = pandas.read_csv("series.csv", parse_dates=["timestamp"])\n'
            f'forecast = madzoo.forecast("{records.name}", table, prediction_length=24)\n'
            'print(forecast[["timestamp", "predictions"]])'
        )
        code = f"import pandas\n\n{code}"
    elsewhere = (
        "Where `madzoo list` does not show that name, `local-dir:FOLDER` or `hf-hub:ORG/REPO` stands in its place."
    )
    return f"```python\nimport madzoo\n{code}\n```\n\n{elsewhere}"


def results(records: CardRecords) -> str:
    """Tabulates the metrics, with the same recipe under other seeds, ablations and baselines beside them."""
    if records.evaluation is None or not records.evaluation.rows:
        return "Not evaluated yet."
    parts = []
    for row in records.evaluation.rows:
        parts += [_results_table(records.evaluation, row), _how(records, row)]
    return "\n\n".join(parts)


def geometry(records: CardRecords) -> str:
    """States what the outputs can see of the parameters: a bound, the measured rank, and how flat the loss is."""
    if (report := records.geometry) is None:
        return "Not measured yet."
    parts = [_bounds(report), _ledger(report), _measurement(report), _flatness(report)]
    if GEOMETRY_PLOT in records.plots:
        parts.append(f"![singular values of the Jacobian]({GEOMETRY_PLOT})")
    return "\n\n".join(part for part in parts if part)


def _bounds(report: Geometry) -> str:
    found, structural = report.measured, report.structural
    bound = f"≥ {found.rank:,} ({found.rows:,} rows)" if found.row_limited else f"{found.rank:,}"
    certified = "verified" if structural.verified else "by formula"
    text = (
        f"Of {report.params.total:,} parameters symmetries take away {structural.lost:,}: on no sample can the local "
        f"dimension pass **{structural.upper_bound:,}** ({certified}). Measured: **{bound}**."
    )
    return text + (" The sample limits this rank: it is a lower bound, not the dimension." if found.row_limited else "")


def _ledger(report: Geometry) -> str:
    lines = [["what the outputs cannot see", "modules", "parameters"]]
    for item in report.structural.items:
        if item.lost and not item.on_data:
            lines.append([f"`{item.name}`", str(item.modules), f"{item.lost:,}"])
    if report.inactive.lost:
        units = f"{report.inactive.dead_units} dead, {report.inactive.always_active_units} always active units"
        lines.append([f"{units} on this sample", "", f"{report.inactive.lost:,}"])
    lines.append(["unexplained on this sample", "", f"{report.unexplained:,}"])
    lines.append(["local dimension on this sample", "", f"{report.measured.rank:,}"])
    checked = (
        f"{report.structural.generators_checked:,} generators were checked, each in three random mixtures: their "
        f"derivative is at most {report.structural.max_relative_jvp:.0e} of a random direction's."
    )
    return f"{table(lines)}\n\n{checked}"


def _measurement(report: Geometry) -> str:
    found, data = report.measured, report.data
    seed = "" if data.seed is None else f", drawn with seed {data.seed}"
    text = (
        f"The local dimension is the rank of the Jacobian of the {report.output} with respect to all parameters, in "
        f"{report.dtype}, on {samples(data.n)} of {data.dataset} ({data.split}{seed}); every element of the output is "
        "a row."
    )
    cells = {
        "rows": f"{found.rows:,}",
        "largest singular value": number(found.sigma_max),
        "last counted": number(found.sigma_r),
        "first not counted": number(found.sigma_next),
        **{f"rank at {key} of the largest": f"{value:,}" for key, value in found.rank_at.items()},
        "stable rank": number(report.effective.stable_rank),
        "participation ratio": number(report.effective.participation_ratio),
        "entropy rank": number(report.effective.entropy_rank),
    }
    return f"{text}\n\n{table([list(cells), list(cells.values())])}"


def _flatness(report: Geometry) -> str:
    if (bent := report.curvature) is None:
        return ""
    error = "" if bent.trace_stderr is None else f" ± {number(bent.trace_stderr)}"
    noise = "" if bent.noise_scale is None else f"; gradient noise scale {number(bent.noise_scale)} samples"
    return (
        f"Flatness of the mean loss ({number(bent.loss)}) on {samples(bent.n)}: largest Hessian eigenvalue "
        f"{number(bent.lambda_max)} (residual {number(bent.lambda_max_residual)}), trace "
        f"{number(bent.trace)}{error} ({bent.probes} probes){noise}."
    )


def quantization(records: CardRecords) -> str:
    """States what rounding costs; of weights that are packed, says how."""
    return sensitivity_text(records) if records.config.quantization is None else packing_text(records)


def provenance(records: CardRecords) -> str:
    """Lists licence, training data, hashes, and what must be said about the data."""
    cfg = records.config.pretrained_cfg
    lines = {
        "licence of the weights": cfg.get("license") or "not stated",
        "training data": (cfg.get("dataset") or "not stated").replace("+", ", "),
        "sha256 of model.safetensors": f"`{records.weights_sha256}`",
        "written by": f"madzoo {records.config.madzoo_version}",
    }
    rows = records.evaluation.rows if records.evaluation else ()
    caveats = dict.fromkeys(str(row.settings["caveat"]) for row in rows if row.settings.get("caveat"))
    return "\n".join([*(f"- {name}: {value}" for name, value in lines.items()), *(f"- {text}" for text in caveats)])


BLOCKS: Mapping[str, Callable[[CardRecords], str]] = {
    "summary": summary,
    "usage": usage,
    "results": results,
    "geometry": geometry,
    "quantization": quantization,
    "provenance": provenance,
}
HEADINGS = {
    "summary": "",
    "usage": "How to use it",
    "results": "Results",
    "geometry": "Geometry",
    "quantization": "Quantization",
    "provenance": "Training data, licence and caveats",
}


def _results_table(evaluation: Evaluation, row: Row) -> str:
    names = list(row.metrics)
    lines = [["", *(LABELS.get(name, name) for name in names), "n", "seed"]]
    lines.append(_line("**this checkpoint**", row, names))
    siblings = [other for other in evaluation.other_seeds if _same(row, other)]
    lines += [_line("same recipe", other, names) for other in siblings]
    if siblings:
        lines.append(_mean_line([row, *siblings], names))
    lines += [_line(other.model, other, names) for other in evaluation.ablations if _same(row, other)]
    for baseline, metrics in row.baselines.items():
        cells = [show(name, metrics.get(name)) for name in names]
        lines.append([f"baseline: {baseline.replace('_', ' ')}", *cells, f"{row.n:,}", ""])
    return f"{_title(row)}\n\n{table(lines)}"


def _line(label: str, row: Row, names: list[str]) -> list[str]:
    cells = []
    for name in names:
        interval = row.intervals.get(name)
        between = f" [{', '.join(show(name, edge) for edge in interval)}]" if interval else ""
        cells.append(show(name, row.metrics.get(name)) + between)
    return [label, *cells, f"{row.n:,}", "" if row.seed is None else str(row.seed)]


def _mean_line(rows: list[Row], names: list[str]) -> list[str]:
    cells = []
    for name in names:
        values = [row.metrics[name] for row in rows if name in row.metrics]
        spread = f" ± {show(name, statistics.stdev(values), digits=2)}" if len(values) > 1 else ""
        cells.append(show(name, statistics.fmean(values)) + spread)
    return [f"**mean ± sd of {len(rows)} seeds**", *cells, f"{rows[0].n:,}", ""]


def _title(row: Row) -> str:
    horizon = f", horizon {row.settings['horizon']}" if "horizon" in row.settings else ""
    units = f", in {row.settings['units']}" if "units" in row.settings else ""
    return f"{row.dataset}, {row.split}{horizon}{units}:"


def _how(records: CardRecords, row: Row) -> str:
    split = "" if row.split == "test" else f" --split {row.split}"
    what = f"--benchmark {row.settings['benchmark']}" if "benchmark" in row.settings else row.dataset
    lines = [f"Reproduce: `madzoo evaluate {records.name} {what}{split}`."]
    if row.intervals:
        lines.append(INTERVALS[records.task])
    if row.configurations_tested is not None:
        many = "configuration" if row.configurations_tested == 1 else "configurations"
        lines.append(f"{row.configurations_tested} {many} of this model ever met this split.")
    return " ".join(lines)


def _same(row: Row, other: Row) -> bool:
    keys = [(r.dataset, r.split, r.settings.get("horizon")) for r in (row, other)]
    return keys[0] == keys[1]
