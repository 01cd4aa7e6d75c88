"""The study of flat valleys: objectives whose valleys are known, then an S4D and a Mamba that fit real pictures."""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from madzoo.errors import DataError
from madzoo.training.probes_path import linear_path
from madzoo.workflows.study_valleys_networks import Pictures, build, half_square
from madzoo.workflows.study_valleys_overhead import measure_overhead
from madzoo.workflows.study_valleys_protocol import Protocol
from madzoo.workflows.study_valleys_runs import State, fit, run_algorithm, run_arm, run_grid
from madzoo.workflows.study_valleys_toys import run_toys

__all__ = ["Finished", "run_study"]

Record = dict[str, Any]


class Finished:
    """Keeps finished runs in a folder, so that a study that was stopped goes on where it was.

    Args:
        folder: made where it is missing; of one protocol only.
        protocol: of the study.
        tell: called with the name of every run that was made now.

    Raises:
        DataError: when the folder holds runs of another protocol.
    """

    def __init__(self, folder: Path, protocol: Protocol, tell: Callable[[str], object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.tell, self.path = folder, tell, folder / "records.json"
        values = json.loads(json.dumps(dataclasses.asdict(protocol)))
        self.content: Record = {"protocol": values, "records": {}}
        if self.path.is_file():
            self.content = json.loads(self.path.read_text())
        if self.content["protocol"] != values:
            raise DataError("the folder holds runs of another protocol.", asked=folder, todo="another --runs folder")

    def once(self, name: str, run: Callable[[], Any]) -> Any:
        """Returns the record of a name: the one kept, or that of a run made now."""
        records = self.content["records"]
        if name not in records:
            records[name] = run()
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(self.content, allow_nan=False))
            new.replace(self.path)
            self.tell(name)
        return records[name]


def run_study(data: Pictures, protocol: Protocol, *, runs: Path, tell: Callable[[str], object] = lambda _: None) -> Any:
    """Runs what the folder does not hold yet, and returns the whole study as plain JSON values.

    Args:
        data: see :func:`madzoo.workflows.study_valleys_networks.load_pictures`.
        protocol: what is done.
        runs: folder of finished runs.
        tell: called with one line per finished run.

    Raises:
        DataError: see :class:`Finished`.

    Cost: some ten minutes of one core with the default protocol.
    """
    store = Finished(runs, protocol, tell)
    toys = store.once("toys", partial(_timed, run_toys, protocol.toys))
    found: list[Record] = []
    for seed in protocol.seeds:
        for network in protocol.networks:
            found += _runs(network, seed, data, protocol, store)
    overhead = [store.once(f"overhead {n}", partial(measure_overhead, n, data, protocol)) for n in protocol.networks]
    apart = [store.once(f"apart {n}", partial(_apart, n, data, protocol, store)) for n in protocol.networks]
    seconds = toys["cpu_seconds"] + sum(record["cpu_seconds"] for record in found)
    seconds += sum(sum(record["plain"] + record["probed"]) for record in overhead)
    return {
        "protocol": store.content["protocol"],
        "data": {"fingerprint": data.fingerprint},
        "toys": toys["found"],
        "runs": found,
        "overhead": overhead,
        "apart": apart,
        "cost": {"cpu_seconds": round(seconds), "torch": torch.__version__},
    }


def _runs(network: str, seed: int, data: Pictures, protocol: Protocol, store: Finished) -> list[Record]:
    name, found = f"{network} {seed}", []
    found.append(store.once(f"fit {name}", partial(_kept_fit, network, seed, data, protocol, store)))
    state = _state(network, seed, store)
    for arm, label in protocol.arms:
        run = partial(run_arm, network, seed, arm, label, state, data, protocol)
        found.append(store.once(f"arm {name} {arm} {label:g}", run))
    for batch in protocol.grid_batches:
        for lr in protocol.grid_lrs:
            run = partial(run_grid, network, seed, batch, lr, data, protocol)
            found.append(store.once(f"grid {name} {batch} {lr:g}", run))
    for algorithm, lr in protocol.algorithms:
        run = partial(run_algorithm, network, seed, algorithm, lr, data, protocol)
        found.append(store.once(f"algorithm {name} {algorithm} {lr:g}", run))
    return found


def _kept_fit(network: str, seed: int, data: Pictures, protocol: Protocol, store: Finished) -> Record:
    state, record = fit(network, seed, data, protocol)
    torch.save(state, store.folder / f"{network}_{seed}.pt")
    return record


def _state(network: str, seed: int, store: Finished) -> State:
    return torch.load(store.folder / f"{network}_{seed}.pt", weights_only=True)


def _apart(network: str, data: Pictures, protocol: Protocol, store: Finished) -> Record:
    """Measures the lines between the fitted networks of different initialisations."""
    states = [_state(network, seed, store) for seed in protocol.seeds]
    model, batch = build(network, 0), (data.train, data.targets)
    pairs = [(a, b) for i, a in enumerate(states) for b in states[i + 1 :]]
    paths = [linear_path(model, a, b, batch, half_square, points=21) for a, b in pairs]
    return {"network": network, "barriers": [p.barrier for p in paths], "lengths": [p.length for p in paths]}


def _timed(run: Callable[[Any], Any], argument: Any) -> Record:
    start = time.process_time()
    return {"found": run(argument), "cpu_seconds": round(time.process_time() - start, 2)}
