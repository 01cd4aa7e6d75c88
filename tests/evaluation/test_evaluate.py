"""One call for every benchmark: it says what was measured, and refuses what does not belong together."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from madzoo.data.windows import Borders, split_windows
from madzoo.errors import ConfigError, DataError
from madzoo.evaluation import ClassificationBenchmark, ForecastingBenchmark, ResultRow, evaluate
from madzoo.evaluation.baselines import SeasonalNaive
from madzoo.evaluation.classification import evaluate_classifier
from madzoo.evaluation.forecasting import evaluate_ltsf


def images() -> ClassificationBenchmark:
    torch.manual_seed(0)
    batches = [(torch.randn(20, 4), torch.randint(7, (20,))) for _ in range(3)]
    return ClassificationBenchmark(
        dataset="toy", split="test", batches=batches, data_fingerprint="ab", settings={"mean": [0.5]}
    )


def series(**changes: Any) -> ForecastingBenchmark:
    table = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    borders, lengths = Borders(train=200, val=100, test=100), {"context_length": 24, "prediction_length": 6}
    parts = {name: split_windows(table, borders, name, **lengths) for name in ("train", "validation", "test")}
    options: dict[str, Any] = {"windows": parts["test"], "train": parts["train"], "validation": parts["validation"]}
    options |= {"seasonality": 12} | changes
    return ForecastingBenchmark(dataset="walk", split="test", **options)


def test_a_classifier() -> None:
    torch.manual_seed(1)
    model, benchmark = nn.Linear(4, 7).train(), images()
    (row,) = evaluate(model, benchmark, name="toy.a", weights_sha256="cd", seed=2, configurations_tested=1)
    expected = evaluate_classifier(model, benchmark.batches)
    assert (row.metrics, row.intervals, row.n) == (expected.metrics, expected.intervals, 60)
    assert (row.model, row.weights_sha256, row.seed, row.configurations_tested) == ("toy.a", "cd", 2, 1)
    assert (row.dataset, row.split, row.data_fingerprint, row.settings) == ("toy", "test", "ab", {"mean": [0.5]})
    assert row.baselines == {} and row.versions["torch"] == torch.__version__ and model.training
    assert ResultRow.from_dict(json.loads(json.dumps(row.to_dict(), allow_nan=False))) == row


def test_a_forecaster_with_its_baselines() -> None:
    model, benchmark = SeasonalNaive(seasonality=12, context_length=24, prediction_length=6).train(), series()
    (row,) = evaluate(model, benchmark)
    expected = evaluate_ltsf(model, benchmark.windows, batch_size=7)
    assert row.metrics["mse"] == pytest.approx(expected.metrics["mse"], rel=1e-6)
    assert row.n == 100 - 6 + 1 and model.training
    assert set(row.baselines) == {"last_value", "seasonal_naive", "linear"}
    assert row.baselines["seasonal_naive"] == pytest.approx(row.metrics)
    assert row.baselines["linear"]["mse"] < row.metrics["mse"]


def test_without_training_windows_there_are_no_baselines() -> None:
    model = SeasonalNaive(seasonality=1, context_length=24, prediction_length=6)
    assert evaluate(model, series(train=None))[0].baselines == {}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="does not forecast"):
        evaluate(nn.Linear(4, 7), series())
    with pytest.raises(ConfigError, match="no benchmark"):
        evaluate(nn.Linear(4, 7), [1, 2])  # type: ignore[arg-type]
    with pytest.raises(DataError):
        evaluate(nn.Linear(4, 3), images())
