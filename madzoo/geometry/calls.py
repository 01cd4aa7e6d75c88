"""What a call of a torch function is: its name under all its spellings, and the tensors it was given."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["CHANNELWISE", "ELEMENTWISE", "EXPANDING", "call_name", "is_operator", "tensors_of"]

# By name, because one function has many: torch.add, Tensor.add, Tensor.__add__, Tensor.__iadd__.
ELEMENTWISE = {"add", "sub", "rsub", "mul", "multiply", "div", "true_divide", "pow", "where", "maximum", "minimum"}
ELEMENTWISE |= {"broadcast_tensors", "lerp", "addcmul"}
EXPANDING = {"expand", "broadcast_to", "expand_as", "repeat"}
# Operators of madzoo that treat every channel alone: data [c, channels or groups, ...], weights [channels, ...].
CHANNELWISE = {"causal_conv1d", "diagonal_scan", "selective_scan"}


def call_name(func: Any, *, keep: bool = False) -> str:
    """Returns a function's name without the underscores of operators: ``__radd__``, ``add_``, ``add`` are ``add``."""
    name = getattr(func, "__name__", "")
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        in_place = name[:1] == "i" and name[1:] in ELEMENTWISE
        reverse = name[:1] == "r" and name[1:] in ELEMENTWISE
        name = f"{name[1:]}_" if in_place else name[1:] if reverse else "div" if name == "truediv" else name
    return name if keep else name.rstrip("_")


def is_operator(func: Any) -> bool:
    """Returns whether a function is an operator of ``torch.ops``."""
    return "pybind" in getattr(func, "__qualname__", "") or isinstance(func, torch._ops.OpOverloadPacket)


def tensors_of(value: object) -> Iterator[Tensor]:
    """Yields the tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _each(value.values())
    elif isinstance(value, (list, tuple)):
        yield from _each(value)


def _each(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        yield from tensors_of(value)
