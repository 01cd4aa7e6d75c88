"""Evaluation: (module, benchmark) in, result rows out."""

from madzoo.evaluation.evaluate import ClassificationBenchmark, ForecastingBenchmark, evaluate
from madzoo.evaluation.registered import BENCHMARKS, BenchmarkSpec, find_benchmarks
from madzoo.evaluation.result import ResultRow
from madzoo.evaluation.series import SeriesBenchmark

__all__ = [
    "BENCHMARKS",
    "BenchmarkSpec",
    "ClassificationBenchmark",
    "ForecastingBenchmark",
    "ResultRow",
    "SeriesBenchmark",
    "evaluate",
    "find_benchmarks",
]
