"""Groups of tensors whose sensitivity is measured together: one per kind, finer where a model has few kinds."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.tensor_kinds import kind_of

__all__ = ["FEWEST_GROUPS", "Groups", "TensorGroup", "tensor_groups"]

FEWEST_GROUPS = 8  # fewer points make no ranking


class TensorGroup(NamedTuple):
    """Names the parameters of a group, and their kind."""

    kind: str
    names: tuple[str, ...]


Groups = Mapping[str, TensorGroup]


def tensor_groups(model: nn.Module, *, fewest: int = FEWEST_GROUPS) -> dict[str, TensorGroup]:
    """Groups every floating parameter by :func:`kind_of`, each in one group.

    While there are fewer than ``fewest`` groups the one with most parameters that can be divided is divided: by the
    block its tensors stand in (their names up to the first number), then tensor by tensor.

    Returns:
        group name -> its kind and parameters, in order of first appearance.

    Example:
        >>> groups = tensor_groups(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
        >>> list(groups)
        ['linear 0.weight', 'vector 0.bias', 'linear 2.weight', 'vector 2.bias']
    """
    sizes = {name: p.numel() for name, p in quantized_parameters(model).items()}
    kinds: dict[str, list[str]] = {}
    for name, p in quantized_parameters(model).items():
        kinds.setdefault(kind_of(name, p), []).append(name)
    groups = {kind: TensorGroup(kind, tuple(names)) for kind, names in kinds.items()}
    while len(groups) < fewest and (large := _largest(groups, sizes)):
        groups |= _divided(groups.pop(large))
    place = {name: number for number, name in enumerate(sizes)}
    return dict(sorted(groups.items(), key=lambda item: place[item[1].names[0]]))


def _largest(groups: Groups, sizes: Mapping[str, int]) -> str | None:
    many = {name: sum(sizes[n] for n in group.names) for name, group in groups.items() if len(group.names) > 1}
    return max(many, key=lambda name: many[name], default=None)


def _divided(group: TensorGroup) -> dict[str, TensorGroup]:
    blocks: dict[str, tuple[str, ...]] = {}
    for name in group.names:
        blocks[_block(name)] = (*blocks.get(_block(name), ()), name)
    if len(blocks) == 1:
        blocks = {name: (name,) for name in group.names}
    names = {block if len(own) > 1 else "".join(own): own for block, own in blocks.items()}
    return {f"{group.kind} {part}": TensorGroup(group.kind, own) for part, own in names.items()}


def _block(name: str) -> str:
    """``"blocks.0.mixer.C"`` -> ``"blocks.0"``; a name without a number is its own block."""
    parts = name.split(".")
    number = next((k for k, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])
