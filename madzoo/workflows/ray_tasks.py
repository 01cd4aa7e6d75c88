"""A sweep on a Ray cluster: every pair of model and benchmark is one task, and its result comes back to the caller."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from madzoo.errors import ConfigError
from madzoo.workflows.evaluate_pair import Outcome, measure_pair

try:  # an extra: pip install "madzoo[ray]"
    import ray  # pyright: ignore[reportMissingImports]
except ImportError:
    ray = None

__all__ = ["RaySpread"]

THREADS = 1


class RaySpread:
    """Computes the tasks of a sweep on Ray's workers, each on one core with one thread.

    A running Ray, or the cluster that ``RAY_ADDRESS`` names, is used and left running; otherwise one is started on this
    machine and shut down afterwards. Data sets, checkpoints and madzoo must be where the workers are; results come back
    to the caller, who alone writes them.

    Args:
        workers: of a Ray that is started here; None: one per core.

    Raises:
        ConfigError: when Ray is not installed, or there is no worker.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        if ray is None:
            raise ConfigError("Ray is not installed.", asked="a sweep on Ray", todo="pip install 'madzoo[ray]'")
        if workers is not None and workers < 1:
            raise ConfigError("a sweep needs at least one worker.", asked=f"workers={workers}")
        self.workers = workers

    def __call__(self, tasks: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
        """Yields the outcomes as they come."""
        api: Any = ray
        mine = not api.is_initialized()
        if mine:
            api.init(**self._options())
        try:
            compute = api.remote(num_cpus=1, max_retries=2)(_measure)
            waiting = [compute.remote(dict(task)) for task in tasks]
            while waiting:
                done, waiting = api.wait(waiting, num_returns=1)
                yield from api.get(done)
        finally:
            if mine:
                api.shutdown()

    def _options(self) -> dict[str, Any]:
        shared = {"log_to_driver": False, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(THREADS)}}}
        if os.environ.get("RAY_ADDRESS"):
            return shared
        return {**shared, "include_dashboard": False, "num_cpus": self.workers or os.cpu_count()}


def _measure(task: dict[str, Any]) -> Outcome:
    torch.set_num_threads(THREADS)
    return measure_pair(**task)
