"""How long one input takes on this machine: measured once, kept beside the page, so that drawing it again is pure."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madzoo.checkpoint.folder import WEIGHTS_FILE
from madzoo.checkpoint.report_files import write_report
from madzoo.errors import DataError
from madzoo.workflows.bench import bench
from madzoo.workflows.leaderboard_rows import Source
from madzoo.workflows.system import system_record

__all__ = ["LATENCY_FILE", "Latency", "measure_latency", "read_latency"]

LATENCY_FILE = "latency.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """States how long a model takes for one input on one thread.

    Attributes:
        model: its name.
        milliseconds: median of ``rounds`` calls; ``fastest`` and ``slowest`` of them.
        rounds, threads: calls that counted, and threads of torch.
        input_shape: of the one call.
        machine: in words.
        versions: of madzoo, torch and Python.
    """

    model: str
    milliseconds: float
    fastest: float
    slowest: float
    rounds: int
    threads: int
    input_shape: tuple[int, ...]
    machine: str
    versions: dict[str, str]


def measure_latency(sources: Iterable[Source], out: Path, *, rounds: int) -> dict[str, Latency]:
    """Times every checkpoint folder, one after the other on one thread, and writes ``latency.json``.

    Args:
        sources: those without weights on this disk are passed over.
        out: the folder of the page; models that it holds already are timed anew.
        rounds: calls that count, of each model.

    Raises:
        CheckpointError: when the file cannot be written.
        MadzooError: whatever :func:`madzoo.create_model` says of a folder.

    Cost: ``rounds`` + 1 forward passes of each model.
    """
    system = system_record()
    machine = f"{system.cpu['name']}, {system.platform.partition('-')[0]}"
    versions = {"madzoo": system.madzoo, "torch": system.torch, "python": system.python}
    found = dict(read_latency(out))
    for source in sources:
        if source.folder is None or source.name is None or not (source.folder / WEIGHTS_FILE).is_file():
            continue
        result = bench(f"local-dir:{source.folder}", threads=1, rounds=rounds, memory=False).results[0]
        found[source.name] = Latency(
            model=source.name,
            milliseconds=round(result.milliseconds, 4),
            fastest=round(result.fastest, 4),
            slowest=round(result.slowest, 4),
            rounds=result.rounds,
            threads=result.threads,
            input_shape=result.input_shape,
            machine=machine,
            versions=versions,
        )
    out.mkdir(parents=True, exist_ok=True)
    models = [asdict(latency) | {"input_shape": list(latency.input_shape)} for _, latency in sorted(found.items())]
    write_report(out, LATENCY_FILE, {"schema": SCHEMA, "models": models})
    return found


def read_latency(out: Path) -> dict[str, Latency]:
    """Returns what ``latency.json`` of a folder holds, by the models' names; nothing where there is no such file.

    Raises:
        DataError: when the file is damaged.
    """
    file = out / LATENCY_FILE
    if not file.is_file():
        return {}
    try:
        values: Any = json.loads(file.read_bytes())
        entries = [Latency(**entry | {"input_shape": tuple(entry["input_shape"])}) for entry in values["models"]]
        return {entry.model: entry for entry in entries if entry.milliseconds > 0}
    except (ValueError, TypeError, KeyError) as error:
        todo = "madzoo leaderboard --latency"
        raise DataError(f"{file} is no record of latencies: {error}.", asked=file, todo=todo) from error
