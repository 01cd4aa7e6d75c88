"""One model on one benchmark, kept in one file, which is valid as long as weights, data and settings are the same."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madzoo.checkpoint.report_files import read_report, write_report
from madzoo.errors import CheckpointError, ConfigError, MadzooError
from madzoo.evaluation import ResultRow
from madzoo.evaluation import evaluate as measure
from madzoo.evaluation.evaluate import Benchmark, ClassificationBenchmark, ForecastingBenchmark, baselines_of
from madzoo.evaluation.shard import ALONE, Shard
from madzoo.workflows.card_rows import card_rows
from madzoo.workflows.evaluate_plan import Pair
from madzoo.workflows.registered_benchmarks import load_registered
from madzoo.workflows.weights_record import create_measured, weights_record

__all__ = ["Outcome", "measure_pair", "read_rows", "stored_pair", "write_pair"]

SCHEMA = 1
PAIRS, BASELINES = "pairs", "baselines"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """States what became of a pair.

    Attributes:
        pair: model and benchmark.
        status: ``"measured"``, ``"kept"`` (an earlier row is still valid) or ``"failed"``.
        row: the result; None where it failed.
        key: what the row is valid for.
        why: what failed.
    """

    pair: Pair
    status: str
    row: ResultRow | None = None
    key: Mapping[str, Any] | None = None
    why: str | None = None


def measure_pair(
    pair: Pair,
    *,
    out: Path,
    stored: Mapping[str, Any] | None,
    data_dir: Path | str | None = None,
    batch_size: int = 256,
    shard: Shard = ALONE,
) -> Outcome:
    """Measures a pair, unless what is stored is of the same weights, data and settings; writes no result.

    A deliberate error (data that are not there, say) makes the outcome ``"failed"``.

    Args:
        pair: model and benchmark.
        out: the folder of the results, for the cache of baselines.
        stored: what :func:`stored_pair` read.
        data_dir: local data folder.
        batch_size: samples at a time.
        shard: the processes that share the batches.
    """
    try:
        model, loaded = shard.together(lambda: _load(pair, batch_size, data_dir))
        record = weights_record(pair.model, model)
        key = _plain({"model": record["name"], "weights_sha256": record["weights_sha256"], **_samples(loaded)})
        if stored is not None and stored["key"] == key:
            return Outcome(pair=pair, status="kept", row=ResultRow.from_dict(stored["rows"][0]), key=key)
        baselines = shard.first(lambda: _baselines(loaded, out / BASELINES))
        known = card_rows(pair.model).get(pair.benchmark)
        if known is not None and known.weights_sha256 == record["weights_sha256"]:
            record["configurations_tested"] = known.configurations_tested
        (row,) = measure(model, loaded, **record, baselines=baselines, shard=shard)
    except MadzooError as error:
        return Outcome(pair=pair, status="failed", why=" ".join(str(error).split()))
    return Outcome(pair=pair, status="measured", row=row, key=key)


def stored_pair(out: Path, pair: Pair) -> dict[str, Any] | None:
    """Returns what the pair's file holds; None where there is none, or a damaged one, which is told once."""
    return _read(out / PAIRS, _file(pair.model, pair.benchmark))


def write_pair(out: Path, outcome: Outcome) -> Path:
    """Writes a measured pair at once, so that a killed run leaves whole files alone.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    if outcome.row is None or outcome.key is None:
        raise ConfigError("only a result can be kept.", asked=str(outcome.pair), looked=outcome.why)
    (out / PAIRS).mkdir(parents=True, exist_ok=True)
    values = {"schema": SCHEMA, "key": dict(outcome.key), "rows": [outcome.row.to_dict()]}
    return write_report(out / PAIRS, _file(outcome.pair.model, outcome.pair.benchmark), values)


def read_rows(out: Path) -> list[ResultRow]:
    """Returns every result that a folder's pairs hold, also those of earlier runs."""
    stored = (_read(out / PAIRS, path.name) for path in sorted((out / PAIRS).glob("*.json")))
    return [ResultRow.from_dict(row) for values in stored if values is not None for row in values["rows"]]


def _load(pair: Pair, batch_size: int, data_dir: Path | str | None) -> tuple[Any, Benchmark]:
    model = create_measured(pair.model)
    (loaded,) = load_registered(model, pair.benchmark, batch_size=batch_size, folder=data_dir)
    return model, loaded


def _samples(loaded: Benchmark) -> dict[str, Any]:
    return {"data_fingerprint": loaded.data_fingerprint, "settings": dict(loaded.settings)}


def _baselines(loaded: Benchmark, cache: Path) -> dict[str, dict[str, float]]:
    """The baselines depend on no weights: they are fitted once for all models of the same context."""
    if isinstance(loaded, ClassificationBenchmark):
        return {}
    shared = ("horizon", "context_length") if isinstance(loaded, ForecastingBenchmark) else ("horizon",)
    settings = {name: loaded.settings[name] for name in shared if name in loaded.settings}
    key = _plain({"benchmark": loaded.settings["benchmark"], "data_fingerprint": loaded.data_fingerprint, **settings})
    file = _file(str(loaded.settings["benchmark"]), str(settings.get("context_length", "any")))
    known = _read(cache, file)
    if known is not None and known["key"] == key:
        return known["baselines"]
    found = baselines_of(loaded)
    cache.mkdir(parents=True, exist_ok=True)
    write_report(cache, file, {"schema": SCHEMA, "key": key, "baselines": found})
    return found


def _file(first: str, second: str) -> str:
    return "--".join(re.sub(r"[^\w.-]+", "_", part) for part in (first, second)) + ".json"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON gives them back."""
    return json.loads(json.dumps(values, allow_nan=False))


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    try:
        values = read_report(folder, name)
    except CheckpointError as error:
        logger.warning("%s", " ".join(str(error).split()))
        return None
    return values if values is not None and values.get("schema") == SCHEMA and "key" in values else None
