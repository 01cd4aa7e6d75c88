"""Several processes on one Gram matrix: each takes a share of the columns of J, and the products are added up."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["add_up", "any_process", "num_processes", "share_of_columns"]

Item = TypeVar("Item")


def num_processes() -> int:
    """Returns how many processes there are: 1 where ``torch.distributed`` was not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_of_columns(items: Sequence[Item], costs: Sequence[int]) -> list[Item]:
    """Returns the consecutive items that this process takes, of about the same cost for all.

    Every item belongs to exactly one process.
    """
    count = num_processes()
    if count == 1:
        return list(items)
    rank, total, before, taken = dist.get_rank(), max(sum(costs), 1), 0, []
    for item, cost in zip(items, costs, strict=True):
        if min(count - 1, (2 * before + cost) * count // (2 * total)) == rank:
            taken.append(item)
        before += cost
    return taken


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replaces every tensor by its sum over the processes; all of them hold the same ones in the same order."""
    if num_processes() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Returns which flags are up in any process."""
    raised = torch.tensor(list(flags), dtype=torch.int32, device=device)
    if num_processes() > 1 and len(raised):
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return raised.bool().tolist()
