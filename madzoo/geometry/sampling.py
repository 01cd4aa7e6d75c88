"""Which elements of the output are rows: all of them, or some drawn at random."""

import torch
from torch import Tensor

from madzoo.errors import ConfigError

__all__ = ["pick_rows"]


def pick_rows(samples: int, outputs: int, *, rows: int | None, seed: int | None) -> Tensor:
    """Returns, for every sample, which elements of its output are rows; -1 fills up where there are fewer.

    Drawn rows are spread over the samples as evenly as possible; within a sample every element is as likely.

    Shapes:
        returns [samples, slots].

    Raises:
        ConfigError: when rows lie outside 1 ... samples * outputs, or are drawn without a seed.

    Example:
        >>> pick_rows(2, 3, rows=None, seed=None).tolist()
        [[0, 1, 2], [0, 1, 2]]
        >>> (pick_rows(2, 3, rows=3, seed=0) >= 0).sum().item()
        3
    """
    if rows is None:
        return torch.arange(outputs).repeat(samples, 1)
    if not 1 <= rows <= samples * outputs:
        raise ConfigError(f"rows lie in 1 ... {samples * outputs}.", asked=f"rows={rows}")
    if seed is None:
        raise ConfigError("rows that are drawn need a seed.", asked=f"rows={rows}", todo=f"rows={rows}, seed=0")
    generator = torch.Generator().manual_seed(seed)
    share, left = divmod(rows, samples)
    counts = torch.full((samples,), share)
    counts[torch.randperm(samples, generator=generator)[:left]] += 1
    picked = torch.full((samples, int(counts.max())), -1)
    for sample, count in enumerate(counts.tolist()):
        picked[sample, :count] = torch.randperm(outputs, generator=generator)[:count].sort().values
    return picked
