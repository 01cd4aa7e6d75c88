"""The study of the straight-through estimator: objectives with known answers, then two networks on real pictures."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from madzoo.data.catalog import DatasetSpec, find_dataset
from madzoo.data.load import load_image_split
from madzoo.errors import DataError
from madzoo.workflows.study_ste_protocol import Protocol
from madzoo.workflows.study_ste_runs import Data, State, run_float, run_more, run_qat
from madzoo.workflows.study_ste_toys import run_toys

__all__ = ["Store", "load_rows", "run_study"]

PARTS = {"train": "train", "held_out": "validation", "test": "test"}


class Store:
    """Keeps finished runs in a folder, so that a study that was stopped goes on where it was.

    Args:
        folder: made where it is missing; of one protocol only.
        protocol: of the study. Another one's folder is refused.

    Raises:
        DataError: when the folder holds runs of another protocol.
    """

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        values = json.loads(json.dumps(dataclasses.asdict(protocol)))
        self.folder, self.path = folder, folder / "records.json"
        self.content: dict[str, Any] = {"protocol": values, "records": {}}
        if self.path.is_file():
            self.content = json.loads(self.path.read_text())
        if self.content["protocol"] != values:
            raise DataError("the folder holds runs of another protocol.", asked=folder, todo="another --runs folder")

    def once(self, key: str, run: Callable[[], Any], tell: Callable[[str], object]) -> Any:
        """Returns the record of a key: the one kept, or that of a run made now."""
        records = self.content["records"]
        if key not in records:
            records[key] = run()
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(self.content))
            new.replace(self.path)
            tell(key)
        return records[key]

    def weights(self, network: str, seed: int) -> State:
        """Reads the float weights of a run."""
        return load_file(self.place(network, seed))

    def place(self, network: str, seed: int) -> Path:
        """Returns where the float weights of a run are kept."""
        return self.folder / f"{network}_{seed}.safetensors"


def load_rows(protocol: Protocol, *, folder: Path | str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Reads the three parts, normalised, one row of pixels a step; they share no picture.

    Shapes:
        -> by part: pictures [n, L, W], labels [n].

    Raises:
        DataError: when the data set is missing, or has too few pictures.
    """
    spec = find_dataset(protocol.dataset)
    return {part: _draw(spec, split, getattr(protocol, part), folder) for part, split in PARTS.items()}


def run_study(data: Data, protocol: Protocol, *, runs: Path, tell: Callable[[str], object] = lambda _: None) -> Any:
    """Runs what the folder does not hold yet, and returns the whole study as plain JSON values.

    Args:
        data: see :func:`load_rows`.
        protocol: what is done.
        runs: folder of finished runs.
        tell: called with one line per finished run.

    Raises:
        DataError: see :class:`Store`.

    Cost: with the default protocol about 150 runs of some seconds each, and two minutes for the known answers.
    """
    store = Store(runs, protocol)
    found = _floats(data, protocol, store, tell) + _rounded(data, protocol, store, tell)
    toys = store.once("toys", lambda: run_toys(protocol.toys), tell)
    seconds = sum(record["cpu_seconds"] for record in found)
    study = {
        "protocol": dataclasses.asdict(protocol),
        "data": {part: _fingerprint(*rows) for part, rows in data.items()},
        "toys": toys,
        "runs": found,
        "cost": {"cpu_seconds": round(seconds), "torch": torch.__version__},
    }
    return json.loads(json.dumps(study))


def _floats(data: Data, protocol: Protocol, store: Store, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Trains every network with every seed in float, then on in float."""
    found = []
    for seed in protocol.seeds:
        for network in protocol.networks:
            kept = partial(_kept_float, network, seed, data, protocol, store)
            found.append(store.once(f"float {network} {seed}", kept, tell))
    for network in protocol.networks:

        def more(seed: int, lr: float, network: str = network) -> Any:
            return run_more(network, seed, lr, store.weights(network, seed), data, protocol)

        found += _tuned(f"more {network}", more, protocol, store, tell)
    return found


def _rounded(data: Data, protocol: Protocol, store: Store, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Trains every network on with every estimator at every width; the first width also chooses the learning rates."""
    found: list[dict[str, Any]] = []
    rates: dict[tuple[str, str], tuple[float, ...]] = {}
    for bits, network, estimator in itertools.product(protocol.bits, protocol.networks, protocol.estimators):

        def qat(seed: int, lr: float, cell: tuple[str, int, str] = (network, bits, estimator)) -> Any:
            return run_qat(cell, seed, lr, store.weights(cell[0], seed), data, protocol)

        lrs = rates.get((network, estimator), protocol.lrs)
        runs = _tuned(f"qat {network} {bits} {estimator}", qat, protocol, store, tell, lrs=lrs)
        rates.setdefault((network, estimator), tuple({run["lr"] for run in runs if run["chosen"]}))
        found += runs
    return found


def _tuned(
    key: str,
    run: Callable[[int, float], Any],
    protocol: Protocol,
    store: Store,
    tell: Callable[[str], object],
    *,
    lrs: tuple[float, ...] = (),
) -> list[dict[str, Any]]:
    """Runs the first seed with every learning rate, the others with the one that was best on the held-out pictures."""
    first, *others = protocol.seeds
    lrs = lrs or protocol.lrs
    tried = [store.once(f"{key} {first} {lr:g}", lambda lr=lr: run(first, lr), tell) for lr in lrs]
    best = max(tried, key=lambda record: (record["held_out"]["accuracy"], -record["held_out"]["loss"]))
    lr = best["lr"]
    found = [record | {"chosen": record is best} for record in tried]
    for seed in others:
        found.append(store.once(f"{key} {seed} {lr:g}", lambda s=seed: run(s, lr), tell) | {"chosen": True})
    return found


def _kept_float(network: str, seed: int, data: Data, protocol: Protocol, store: Store) -> dict[str, Any]:
    state, record = run_float(network, seed, data, protocol)
    save_file({name: value.contiguous() for name, value in state.items()}, store.place(network, seed))
    return record


def _draw(spec: DatasetSpec, split: str, count: int, folder: Path | str | None) -> tuple[Tensor, Tensor]:
    images = load_image_split(spec, split, folder=folder)
    if count > len(images):
        raise DataError("the part has too few pictures.", asked=count, looked=len(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    pixels = (images.images[order, 0].float() / 255 - spec.mean[0]) / spec.std[0]
    return pixels, images.labels[order]


def _fingerprint(x: Tensor, y: Tensor) -> str:
    return hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()[:16]
