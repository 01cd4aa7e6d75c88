"""Registered benchmarks of images and series alike: which of them a model fits, and the loaded samples."""

from pathlib import Path
from typing import Any

from madzoo.data.catalog import find_dataset
from madzoo.errors import ConfigError
from madzoo.evaluation import BenchmarkSpec, ImageBenchmarkSpec, find_benchmarks
from madzoo.evaluation.evaluate import Benchmark
from madzoo.workflows.benchmarks import load_images
from madzoo.workflows.report_data import check_task
from madzoo.workflows.series_benchmarks import load_series

__all__ = ["check_fit", "load_registered"]


def load_registered(
    model: Any, name: str, *, batch_size: int = 256, folder: Path | str | None = None
) -> list[Benchmark]:
    """Loads registered benchmarks, prepared for a model.

    Args:
        model: a classifier or a forecaster of the zoo; its card's data set decides the leakage flags.
        name: a benchmark, or the beginning of several, or such names with commas between.
        batch_size: samples at a time; the numbers do not depend on it.
        folder: local data folder; see :func:`madzoo.data.catalog.data_dir`.

    Raises:
        ConfigError: when no benchmark has such a name, or one is not for this model.
        DataError: when the data cannot be read.
    """
    if batch_size < 1:
        raise ConfigError("batch_size is at least 1.", asked=batch_size)
    specs = find_benchmarks(name)
    for spec in specs:
        check_fit(model, spec)
    return [_load(model, spec, batch_size, folder) for spec in specs]


def check_fit(model: Any, spec: BenchmarkSpec | ImageBenchmarkSpec) -> None:
    """Checks, without the data, that a benchmark is for a model: its task, and for images size and classes.

    Raises:
        ConfigError: when it is not, saying what does not fit.
    """
    asked = f"{getattr(model, 'madzoo_name', type(model).__name__)} on {spec.name}"
    task = getattr(model, "task", None)
    if isinstance(spec, ImageBenchmarkSpec):
        if task != "image-classification":
            raise ConfigError("the model does not classify images.", asked=asked)
        data = find_dataset(spec.name)
        check_task(model, data)
        known = tuple((getattr(model, "pretrained_cfg", None) or {}).get("class_names") or ())
        if known not in ((), data.class_names):
            raise ConfigError(f"the model is not for {spec.name}: its classes have other names.", asked=asked)
    elif task != "time-series-forecasting":
        raise ConfigError("the model does not forecast.", asked=asked)


def _load(
    model: Any, spec: BenchmarkSpec | ImageBenchmarkSpec, batch_size: int, folder: Path | str | None
) -> Benchmark:
    if isinstance(spec, BenchmarkSpec):
        return load_series(model, spec, batch_size=batch_size, folder=folder)
    settings = {"benchmark": spec.name, "train_rows": spec.train_rows}
    data = find_dataset(spec.name)
    return load_images(model, data, "test", batch_size=batch_size, folder=folder, settings=settings)
