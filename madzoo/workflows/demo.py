"""The demo: five pictures classified, one real series forecast, and what the bundled cards say, in one record."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from madzoo.checkpoint.card_records import CardRecords, read_records
from madzoo.checkpoint.folder import CONFIG_FILE, bundled_root
from madzoo.errors import DataError
from madzoo.workflows.classify import ImagePrediction, classify
from madzoo.workflows.forecast import forecast_file

__all__ = ["CardSummary", "Demo", "demo", "summarize_card"]

ASSETS = Path(__file__).resolve().parents[1] / "assets"
LABELS = ASSETS / "fashion_mnist_test_labels.json"
SERIES = ASSETS / "mauna_loa_co2_weekly.csv"
CLASSIFIER = "weft_micro_patch4_28.fashion_mnist"
FORECASTER = "patch_s4d_small_672_168.zeroshot"  # the default one is not told that weeks have a year
WEEKS = 104
HEADLINES = {"image-classification": ("top1",), "time-series-forecasting": ("mse", "sql")}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardSummary:
    """Holds the numbers of one card; None where the folder does not state one.

    Attributes:
        model: full name.
        dataset, metric, value: the headline of its first result row.
        num_params: parameters.
        local_dimension: as text, a bound where the sample limited the rank.
        rounded_metric, drop_8_bits, drop_4_bits: what rounding all weights costs, in this metric's own units; positive
            is worse.
    """

    model: str
    dataset: str | None = None
    metric: str | None = None
    value: float | None = None
    num_params: int | None = None
    local_dimension: str | None = None
    rounded_metric: str | None = None
    drop_8_bits: float | None = None
    drop_4_bits: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demo:
    """Holds everything the demo found.

    Attributes:
        predictions, truths: of the five pictures, in order.
        forecast: the table of :func:`madzoo.forecast`.
        csv, png: the files written.
        cards: one per bundled model.
    """

    predictions: tuple[ImagePrediction, ...]
    truths: tuple[str, ...]
    forecast: pd.DataFrame
    csv: Path
    png: Path
    cards: tuple[CardSummary, ...]


def demo(
    out: str | os.PathLike[str],
    *,
    classifier: str = CLASSIFIER,
    forecaster: str = FORECASTER,
    root: Path | None = None,
) -> Demo:
    """Classifies the bundled pictures, forecasts two years of weekly CO2 at Mauna Loa, and reads the bundled cards.

    Args:
        out: folder for the CSV and the PNG of the forecast, made when absent.
        classifier: name of a model of Fashion-MNIST's ten classes.
        forecaster: name of a forecaster.
        root: holds the checkpoint folders; None: those bundled.

    Raises:
        DataError: when the folder cannot be made or written to.
        CheckpointError: when a bundled folder is damaged.
        MadzooError: whatever :func:`madzoo.create_model` says about the names.

    Cost: two forward passes of small models, and the hashes of every bundled weight file.
    """
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder cannot be made: {error}.", asked=out) from error
    csv, png = (folder / f"madzoo_demo_co2_forecast.{kind}" for kind in ("csv", "png"))
    return Demo(
        predictions=tuple(
            replace(found, image=name)
            for name, found in zip(labels, classify(classifier, [ASSETS / name for name in labels], top=3), strict=True)
        ),
        truths=tuple(labels.values()),
        forecast=forecast_file(SERIES, model=forecaster, prediction_length=WEEKS, csv=csv, png=png),
        csv=csv,
        png=png,
        cards=tuple(summarize_card(path.parent) for path in sorted((root or bundled_root()).glob(f"*/{CONFIG_FILE}"))),
    )


def summarize_card(folder: Path | str) -> CardSummary:
    """Reads the headline numbers of a checkpoint folder, whose hashes are verified on the way.

    Raises:
        CheckpointError: when a file is damaged, or a report is not about these weights.
    """
    records = read_records(folder)
    return CardSummary(model=records.name, **_evaluation(records), **_geometry(records), **_quantization(records))


def _evaluation(records: CardRecords) -> dict[str, Any]:
    rows = records.evaluation.rows if records.evaluation else ()
    if not rows:
        return {}
    first = rows[0]
    metric = next((name for name in HEADLINES[records.task] if name in first.metrics), None)
    return {} if metric is None else {"dataset": first.dataset, "metric": metric, "value": first.metrics[metric]}


def _geometry(records: CardRecords) -> dict[str, Any]:
    if records.geometry is None:
        return {}
    measured = records.geometry.measured
    rank = f"≥ {measured.rank} ({measured.rows} rows)" if measured.row_limited else str(measured.rank)
    return {"num_params": records.geometry.params.total, "local_dimension": rank}


def _quantization(records: CardRecords) -> dict[str, Any]:
    if records.quantization is None:
        return {}
    drops = {f"drop_{entry.bits}_bits": entry.drop for entry in records.quantization.entries if entry.bits in (8, 4)}
    return {"rounded_metric": records.quantization.metric, **drops}
