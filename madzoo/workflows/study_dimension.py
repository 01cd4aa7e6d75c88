"""The study of the local dimension during training: five kinds of network, one size, one recipe, and the paper's."""

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.data.catalog import find_dataset
from madzoo.data.images import ImageArrays
from madzoo.data.load import load_image_split
from madzoo.errors import DataError
from madzoo.workflows.study_measures import accuracy, flatness, rank_conventions, ranks, tolerance
from madzoo.workflows.study_networks import NETWORKS, SIDE

__all__ = ["PUBLISHED", "QUICK", "Pictures", "Protocol", "load_pictures", "run_one", "run_study"]

PUBLISHED = "relu_mlp_sgd"  # the multilayer perceptron by the recipe of arXiv 2402.08269
Pictures = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """States everything that is chosen in the study.

    Attributes:
        dataset: of the catalog; its pictures are averaged to 8 x 8 and lie in [0, 1].
        train, validation, test: pictures of each part, drawn once with seed 0. No part chooses anything but
            ``train``, on which the networks learn and on which rank and curvature are measured.
        seeds: of initialisation and order.
        epochs, lr, batch_size: Adam's, for all five networks; the epochs are those at which is measured.
        sgd_epochs, sgd_lr, sgd_batch_size: of the perceptron's run by the published recipe.
        probes, microbatch: of the traces and of the noise scale.
        ratios, bits: of pruning and rounding at the end.
    """

    dataset: str = "fashion_mnist"
    train: int = 600
    validation: int = 1000
    test: int = 2000
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: tuple[int, ...] = (0, 2, 10, 50, 200)
    lr: float = 3e-3
    batch_size: int = 60
    sgd_epochs: tuple[int, ...] = (0, 10, 40, 200, 680)
    sgd_lr: float = 0.1
    sgd_batch_size: int = 256
    probes: int = 12
    microbatch: int = 10
    ratios: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9)
    bits: tuple[int, ...] = (8, 4, 3, 2)


QUICK = Protocol(
    train=20, validation=40, test=40, seeds=(0,), epochs=(0, 2), sgd_epochs=(0, 3), probes=2, batch_size=10
)


def load_pictures(protocol: Protocol, *, folder: Path | str | None = None) -> Pictures:
    """Reads the three parts; they share no picture.

    Raises:
        DataError: when the data set is missing, or has too few pictures.
    """
    spec = find_dataset(protocol.dataset)
    return {
        part: draw_pictures(load_image_split(spec, part, folder=folder), getattr(protocol, part))
        for part in ("train", "validation", "test")
    }


def draw_pictures(data: ImageArrays, count: int) -> tuple[Tensor, Tensor]:
    """Draws pictures with seed 0 and averages them to [count, 1, 8, 8] in [0, 1]."""
    if count > len(data):
        raise DataError("the part has too few pictures.", asked=count, looked=len(data))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
    grey = data.images[order].float().mean(1, keepdim=True) / 255
    return F.adaptive_avg_pool2d(grey, SIDE), data.labels[order]


def run_study(
    pictures: Pictures, protocol: Protocol, *, workers: int = 1, tell: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Runs every network with every seed and returns plain JSON values.

    Args:
        pictures: see :func:`load_pictures`.
        protocol: what is done.
        workers: processes, of one thread each.
        tell: called with one line per finished run.

    Cost: some 20 seconds a run and measured epoch.
    """
    tasks = [(name, seed) for name in [*NETWORKS, PUBLISHED] for seed in protocol.seeds]
    start, runs = time.perf_counter(), []
    for run in _finished(tasks, pictures, protocol, workers):
        runs.append(run)
        if tell is not None:
            tell(f"{len(runs)}/{len(tasks)} {run['network']} seed {run['seed']}: {run['cpu_seconds']:.0f} s")
    runs.sort(key=lambda run: tasks.index((run["network"], run["seed"])))
    cost = {"seconds": round(time.perf_counter() - start, 1), "workers": workers, "torch": torch.__version__}
    values = {"protocol": dataclasses.asdict(protocol), "runs": runs, "cost": cost}
    return json.loads(json.dumps(values))  # what a reader of the file would see


def _finished(
    tasks: list[tuple[str, int]], pictures: Pictures, protocol: Protocol, workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        for name, seed in tasks:
            yield run_one(name, seed, pictures, protocol)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_alone, name, seed, pictures, protocol) for name, seed in tasks]
        for future in as_completed(futures):
            yield future.result()


def _alone(name: str, seed: int, pictures: Pictures, protocol: Protocol) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run_one(name, seed, pictures, protocol)


def run_one(name: str, seed: int, pictures: Pictures, protocol: Protocol) -> dict[str, Any]:
    """Trains one network and measures it at the epochs of the protocol."""
    start = time.process_time()
    published = name == PUBLISHED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS["relu_mlp" if published else name]()
    epochs = protocol.sgd_epochs if published else protocol.epochs
    records = []
    for epoch in _train(model, pictures["train"], protocol, seed=seed, epochs=epochs, published=published):
        ends = epoch in (epochs[0], epochs[-1])
        records.append({"epoch": epoch} | _measure(model, pictures, protocol, conventions=ends))
    x, y = pictures["test"]
    found = tolerance(model, x, y, ratios=protocol.ratios, bits=protocol.bits)
    seconds = round(time.process_time() - start, 1)
    return {"network": name, "seed": seed, "records": records, "tolerance": found, "cpu_seconds": seconds}


def _train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    protocol: Protocol,
    *,
    seed: int,
    epochs: tuple[int, ...],
    published: bool,
) -> Iterator[int]:
    """Yields each epoch to be measured, when so many are over."""
    x, y = data
    size = protocol.sgd_batch_size if published else protocol.batch_size
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=protocol.lr)
    if published:
        optimizer = torch.optim.SGD(model.parameters(), lr=protocol.sgd_lr)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs[-1] + 1):
        if epoch in epochs:
            yield epoch
        model.train()
        for rows in torch.randperm(len(x), generator=generator).split(size):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def _measure(model: nn.Module, pictures: Pictures, protocol: Protocol, *, conventions: bool) -> dict[str, Any]:
    x, y = pictures["train"]
    found: dict[str, Any] = {part: accuracy(model, *pictures[part]) for part in ("train", "validation", "test")}
    found |= {"rank": ranks(model, x)}
    found |= {"curvature": flatness(model, x, y, probes=protocol.probes, microbatch=protocol.microbatch)}
    return found | ({"conventions": rank_conventions(model, x)} if conventions else {})
