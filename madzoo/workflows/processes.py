"""The processes that torchrun, or a launcher that sets its variables, started, as the shard of a benchmark."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from madzoo.evaluation import Shard

__all__ = ["process_shard"]

PATIENCE = timedelta(hours=12)  # the first process alone fits the baselines, while the others wait


def process_shard() -> Shard:
    """Returns this process's share: of all processes, where a launcher started several, else the whole.

    A group that is already there is used. Otherwise one of gloo is made, which needs no accelerator; it stays until the
    process ends, for a second group on the same port could meet the store of the first.
    """
    if not _is_up() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(_end)
    return Shard(rank=dist.get_rank(), world=dist.get_world_size(), gather=_gather) if _is_up() else Shard()


def _is_up() -> bool:
    return dist.is_available() and dist.is_initialized()


def _end() -> None:
    if _is_up():
        dist.destroy_process_group()


def _gather(mine: Any) -> list[Any]:
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told
