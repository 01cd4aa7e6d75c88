"""A data set's name and a model in, the loaded benchmark out: images prepared, tables cut into z-scored windows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madzoo.data.catalog import DatasetSpec, find_dataset
from madzoo.data.images import image_batches
from madzoo.data.load import load_image_split
from madzoo.data.windows import Borders, split_windows
from madzoo.errors import ConfigError
from madzoo.evaluation import BENCHMARKS, ClassificationBenchmark, ForecastingBenchmark
from madzoo.evaluation.leakage import NOTHING, BenchmarkRows, find_leakage
from madzoo.evaluation.registered import benchmark_of
from madzoo.geometry.report import sample_sha256
from madzoo.workflows.report_data import check_task
from madzoo.workflows.training_task import table_values

__all__ = ["leakage_flags", "load_benchmark", "load_images", "load_windows"]

LITERATURE_HORIZONS = (96, 192, 336, 720)


def load_benchmark(
    model: Any,
    dataset: str,
    *,
    split: str = "test",
    horizon: int | None = None,
    batch_size: int = 256,
    folder: Path | str | None = None,
) -> ClassificationBenchmark | ForecastingBenchmark:
    """Loads a split of a data set, prepared for a model.

    Args:
        model: an image classifier or a forecaster of the zoo.
        dataset: a name of :mod:`madzoo.data.catalog`.
        split: ``"test"``, ``"validation"`` or ``"train"``.
        horizon: steps to forecast; None: the model's own where it is one of 96, 192, 336, 720, else 96.
        batch_size: samples at a time; the numbers do not depend on it.
        folder: local data folder; see :func:`madzoo.data.catalog.data_dir`.

    Raises:
        ConfigError: when the data set or split is unknown, or not for this model.
        DataError: when the data cannot be read.
    """
    if batch_size < 1:
        raise ConfigError("batch_size is at least 1.", asked=batch_size)
    spec = find_dataset(dataset)
    check_task(model, spec)
    if spec.task == "image-classification":
        if horizon is not None:
            raise ConfigError("images have no horizon.", asked=f"horizon={horizon} on {dataset}")
        return load_images(model, spec, split, batch_size=batch_size, folder=folder)
    steps = _horizon(model, horizon)
    flags = leakage_flags(model, _test_rows(spec.name), split=split)
    return load_windows(model, spec, split, horizon=steps, batch_size=batch_size, folder=folder, settings=flags)


def leakage_flags(model: Any, rows: BenchmarkRows, *, split: str = "test") -> dict[str, bool | None]:
    """Returns what a model has seen of a split, by the data set of its card; the flags are None where it names none.

    Of a part that models are trained on or chosen by, a model of the same data has seen the rows.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    is_fitted = any(True for _ in model.parameters())
    found = find_leakage(cfg.get("dataset") if is_fitted else NOTHING, rows)
    leaked = found.testdata_leakage if split == "test" else found.trained_on_this_dataset
    return {"trained_on_this_dataset": found.trained_on_this_dataset, "testdata_leakage": leaked}


def load_images(
    model: Any,
    spec: DatasetSpec,
    split: str,
    *,
    batch_size: int = 256,
    folder: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ClassificationBenchmark:
    """Loads a split of an image set, prepared for a model; ``settings`` are recorded beside its own.

    Raises:
        ConfigError: when the split is unknown.
        DataError: when the data cannot be read.
    """
    data = load_image_split(spec, split, folder=folder)
    mean, std = (tuple(model.pretrained_cfg[key]) for key in ("mean", "std"))
    return ClassificationBenchmark(
        dataset=spec.name,
        split=split,
        batches=image_batches(data, mean=mean, std=std, batch_size=batch_size),
        data_fingerprint=data.fingerprint(),
        settings=_settings(
            spec,
            **(settings or {}),
            mean=list(mean),
            std=list(std),
            **leakage_flags(model, _test_rows(spec.name), split=split),
        ),
    )


def load_windows(
    model: Any,
    spec: DatasetSpec,
    split: str,
    *,
    horizon: int,
    batch_size: int = 256,
    folder: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ForecastingBenchmark:
    """Loads every window of a table's split, z-scored by its training rows; ``settings`` are recorded beside its own.

    Raises:
        ConfigError: when the split is unknown, or the data set is no table.
        DataError: when the data cannot be read.
    """
    values = table_values(spec, folder)
    borders = spec.borders or Borders.from_ratio(len(values))
    lengths = {"context_length": model.context_length, "prediction_length": horizon}
    return ForecastingBenchmark(
        dataset=spec.name,
        split=split,
        windows=split_windows(values, borders, split, **lengths),
        train=split_windows(values, borders, "train", **lengths),
        validation=split_windows(values, borders, "validation", **lengths),
        seasonality=spec.seasonality,
        batch_size=batch_size,
        data_fingerprint=sample_sha256(values),
        settings=_settings(
            spec,
            **(settings or {}),
            horizon=horizon,
            context_length=model.context_length,
            units="z-scores of the train rows",
        ),
    )


def _test_rows(dataset: str) -> BenchmarkRows:
    name = benchmark_of(dataset, LITERATURE_HORIZONS[0])
    return BENCHMARKS[name].test_rows if name else BenchmarkRows(datasets=(dataset,))


def _horizon(model: Any, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise ConfigError("a horizon is at least 1.", asked=f"horizon={asked}")
    own = model.prediction_length
    return asked or (own if own in LITERATURE_HORIZONS else LITERATURE_HORIZONS[0])


def _settings(spec: DatasetSpec, **settings: Any) -> dict[str, Any]:
    # A copy that needs a caveat is not the Hub's data set: its numbers must not appear under that name.
    named = {"hub_id": None if spec.caveat else spec.hub_id, "caveat": spec.caveat}
    return settings | {key: value for key, value in named.items() if value is not None}
