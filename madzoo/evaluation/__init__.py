"""Evaluation: (module, benchmark) in, result rows out."""

from madzoo.evaluation.evaluate import ClassificationBenchmark, ForecastingBenchmark, evaluate
from madzoo.evaluation.result import ResultRow

__all__ = ["ClassificationBenchmark", "ForecastingBenchmark", "ResultRow", "evaluate"]
