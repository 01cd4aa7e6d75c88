"""Result rows in the formats of two leaderboards: fev's results CSV, and GIFT-Eval's all_results.csv with config.json.

The files let a score be read by the tools of both. They claim no place on either board: GIFT-Eval's own series are not
these, and fev-bench has 97 more tasks.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madzoo.errors import ConfigError, check_choice
from madzoo.evaluation.registered import FEV_METRICS
from madzoo.evaluation.result import ResultRow
from madzoo.evaluation.result_files import write_results

__all__ = [
    "FEV_COLUMNS",
    "GIFT_COLUMNS",
    "GIFT_MODEL_TYPES",
    "fev_row",
    "gift_config",
    "gift_row",
    "results_table",
    "write_leaderboards",
    "write_submissions",
]

# Columns of benchmarks/fev_bench/results/*.csv in github.com/autogluon/fev @ 1bc95fd.
FEV_COLUMNS = (
    *("model_name", "model_class", "dataset_path", "dataset_config", "horizon", "num_windows", "initial_cutoff"),
    *("window_step_size", "min_context_length", "max_context_length", "seasonality", "eval_metric", "extra_metrics"),
    *("quantile_levels", "id_column", "timestamp_column", "target", "generate_univariate_targets_from"),
    *("known_dynamic_columns", "past_dynamic_columns", "static_columns", "task_name", "test_error"),
    *("training_time_s", "inference_time_s", "num_forecasts", "dataset_fingerprint", "trained_on_this_dataset"),
    *("fev_version", "SQL", "MASE", "WAPE", "WQL", "framework_version", "model_kwargs", "fev_commit"),
)
EXTRA_METRICS: Sequence[Any] = ("MASE", {"name": "WAPE", "epsilon": 1.0}, {"name": "WQL", "epsilon": 1.0})
# Columns of results/*/all_results.csv in github.com/SalesforceAIResearch/gift-eval @ 4fd98a9.
GIFT_METRICS = (
    *("MSE[mean]", "MSE[0.5]", "MAE[0.5]", "MASE[0.5]", "MAPE[0.5]", "sMAPE[0.5]", "MSIS"),
    *("RMSE[mean]", "NRMSE[mean]", "ND[0.5]", "mean_weighted_sum_quantile_loss"),
)
GIFT_COLUMNS = ("dataset", "model", *(f"eval_metrics/{name}" for name in GIFT_METRICS), "domain", "num_variates")
SAID: Mapping[bool | None, str] = {True: "yes", False: "no", None: "unknown"}
GIFT_MODEL_TYPES = ("statistical", "deep-learning", "agentic", "pretrained", "fine-tuned", "zero-shot")


def fev_row(row: ResultRow) -> dict[str, Any]:
    """Returns a row of fev's results CSV.

    ``dataset_fingerprint`` is madzoo's hash of the series and ``fev_version`` is empty, because fev has not loaded the
    data. A model whose card names no data is given as trained on it.

    Raises:
        ConfigError: when the row is of no task with fev's four metrics.
    """
    settings = row.settings
    if not row.details or not set(FEV_METRICS) <= set(row.metrics):
        raise ConfigError("the row is of no fev-bench task.", asked=f"{row.model} on {row.dataset}")
    horizon, windows = settings["horizon"], settings["num_windows"]
    task = row.dataset.removeprefix("fev-").upper().replace("-", "_")
    known = {
        "model_name": row.model,
        "model_class": "madzoo",
        "dataset_path": "autogluon/fev_datasets",
        "dataset_config": task,
        "horizon": horizon,
        "num_windows": windows,
        "initial_cutoff": -horizon * windows,
        "window_step_size": horizon,
        "min_context_length": 1,
        "max_context_length": "",
        "seasonality": settings["seasonality"],
        "eval_metric": "SQL",
        "extra_metrics": list(EXTRA_METRICS),
        "quantile_levels": settings["quantile_levels"],
        "id_column": "id",
        "timestamp_column": "timestamp",
        "target": sorted(settings["targets"]),
        "known_dynamic_columns": [],
        "past_dynamic_columns": [],
        "static_columns": [],
        "task_name": task,
        "test_error": row.metrics["sql"],
        "training_time_s": 0.0,
        "inference_time_s": row.seconds,
        "num_forecasts": row.n,
        "dataset_fingerprint": row.data_fingerprint,
        "trained_on_this_dataset": settings["trained_on_this_dataset"] is not False,
        "framework_version": row.versions.get("torch", ""),
        "model_kwargs": json.dumps({"weights_sha256": row.weights_sha256, "seed": row.seed}),
        **{name.upper(): row.metrics[name] for name in FEV_METRICS},
    }
    return {name: known.get(name, "") for name in FEV_COLUMNS}


def gift_row(row: ResultRow) -> dict[str, Any]:
    """Returns a row of GIFT-Eval's all_results.csv; MSIS is empty, for want of its quantiles.

    Raises:
        ConfigError: when the row has no errors of GIFT-Eval.
    """
    if not row.details:
        raise ConfigError("the row holds no errors of GIFT-Eval.", asked=f"{row.model} on {row.dataset}")
    known = {f"eval_metrics/{name}": value for name, value in row.details.items()}
    known |= {
        "dataset": f"{row.dataset}/{row.settings['freq']}/short",
        "model": row.model,
        "domain": row.settings["domain"],
        "num_variates": len(row.settings["targets"]),
    }
    return {name: known.get(name, "") for name in GIFT_COLUMNS}


def gift_config(
    rows: Sequence[ResultRow], *, model_type: str, links: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns GIFT-Eval's config.json.

    A model is given as leaked where a row is, or where its card names no data.

    Args:
        rows: of one model.
        model_type: one of :data:`GIFT_MODEL_TYPES`.
        links: ``model_link``, ``code_link`` and ``org``, each empty where it is left out.

    Raises:
        ConfigError: on another model_type or link, or rows of several models.
    """
    check_choice("model type of GIFT-Eval", model_type, GIFT_MODEL_TYPES)
    names = {row.model for row in rows}
    if len(names) != 1:
        raise ConfigError("config.json is about one model.", asked=sorted(names))
    given = {"model_link": "", "code_link": "", "org": ""}
    for name in links or {}:
        check_choice("link of GIFT-Eval", name, tuple(given))
    leaked = any(row.settings.get("testdata_leakage") is not False for row in rows)
    return {
        "model": names.pop(),
        "model_type": model_type,
        "model_dtype": "float32",
        **given,
        **(links or {}),
        "testdata_leakage": "Yes" if leaked else "No",
        "replication_code_available": "Yes",
    }


def write_leaderboards(rows: Sequence[ResultRow], folder: Path | str, *, model_type: str | None = None) -> list[Path]:
    """Writes the rows as results.json, .csv, .parquet and .md, and what they allow of the two boards' files.

    Args:
        rows: of one model.
        folder: made when absent.
        model_type: see :func:`write_submissions`.

    Raises:
        ConfigError: as :func:`gift_config`.
    """
    written = write_results(rows, folder)
    table = Path(folder) / "results.md"
    table.write_text(results_table(rows), encoding="utf-8")
    return [*written, table, *write_submissions(rows, folder, model_type=model_type)]


def write_submissions(rows: Sequence[ResultRow], folder: Path | str, *, model_type: str | None = None) -> list[Path]:
    """Writes what the rows allow of fev's CSV and GIFT-Eval's two files; nothing for images and long horizons.

    fev's file holds the tasks of fev-bench, ``fev/<model>.csv``; GIFT-Eval's every benchmark of series,
    ``gift_eval/<model>/``.

    Args:
        rows: of one model.
        folder: made when absent.
        model_type: one of :data:`GIFT_MODEL_TYPES`; None: ``"zero-shot"``, or ``"deep-learning"`` where a row's model
            was trained on that row's data, or may have been.

    Raises:
        ConfigError: as :func:`gift_config`.
    """
    folder, written = Path(folder), {}
    series = [row for row in rows if row.details]
    if series:
        name = re.sub(r"[^\w.-]+", "_", series[0].model)
        trained = any(row.settings.get("trained_on_this_dataset") is not False for row in series)
        config = gift_config(series, model_type=model_type or ("deep-learning" if trained else "zero-shot"))
        written[f"gift_eval/{name}/all_results.csv"] = _csv(GIFT_COLUMNS, [gift_row(row) for row in series])
        written[f"gift_eval/{name}/config.json"] = json.dumps(config, indent=4) + "\n"
        tasks = [fev_row(row) for row in series if row.dataset.startswith("fev-")]
        if tasks:
            written[f"fev/{name}.csv"] = _csv(FEV_COLUMNS, tasks)
    for path, text in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in written]


def results_table(rows: Sequence[ResultRow]) -> str:
    """Returns a Markdown table: a line for the model and each baseline on each benchmark, four decimals."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    lines = [["benchmark", "n", "model", *metrics, "trained on it", "saw test rows"], ["---"] * (len(metrics) + 5)]
    for row in rows:
        name, flags = str(row.settings.get("benchmark", row.dataset)), ("trained_on_this_dataset", "testdata_leakage")
        seen = [SAID[row.settings.get(flag)] for flag in flags]
        for model, found in {row.model: row.metrics, **row.baselines}.items():
            cells = [f"{found[metric]:.4f}" if metric in found else "" for metric in metrics]
            lines.append([name, str(row.n), model, *cells, *(seen if model == row.model else ["", ""])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
