"""Keeps malloc from handing memory back to the system after every layer."""

from functools import cache

import torch

__all__ = ["keep_freed_memory"]

# glibc's largest: malloc stops handing freed blocks up to this size back to the system once one was freed.
LARGEST_KEPT = 32 * 2**20 - 2**16


@cache
def keep_freed_memory() -> None:
    """Lets this process keep up to 64 MiB of freed memory; with another malloc than glibc's nothing happens.

    A forward pass frees megabytes after every block; malloc returns them to the system and then takes them back page
    by page. Its thresholds follow the largest block ever freed, so one is freed.

    Cost: no memory, because the block is never written.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8, device="cpu")
