"""Evaluation: (module, benchmark) in, result rows out."""

from madzoo.evaluation.evaluate import ClassificationBenchmark, ForecastingBenchmark, evaluate
from madzoo.evaluation.registered import BENCHMARKS, BenchmarkSpec, ImageBenchmarkSpec, find_benchmarks
from madzoo.evaluation.result import ResultRow
from madzoo.evaluation.series import SeriesBenchmark
from madzoo.evaluation.shard import Shard

__all__ = [
    "BENCHMARKS",
    "BenchmarkSpec",
    "ClassificationBenchmark",
    "ForecastingBenchmark",
    "ImageBenchmarkSpec",
    "ResultRow",
    "SeriesBenchmark",
    "Shard",
    "evaluate",
    "find_benchmarks",
]
