"""Columns of J that are collected together: how many fit into memory, and what they add to a Gram matrix.

Legend: n samples, S rows of a sample, m = n S, T places where a weight [O, I] is used on one sample.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from madzoo.geometry.ghost import add_columns, add_outer

__all__ = ["NUMBER", "Portion", "cut_parameter", "group_portions"]

NUMBER = 8  # bytes of a float64
MOST_PARTS = 64  # of one parameter, however little memory there is


@dataclass(kw_only=True)
class Portion:
    """Holds some columns of J while they are collected: as rows, or as the two sides of outer products.

    Attributes:
        name, parameter: whose columns.
        first, last: which of them; of an outer product: which of its outputs.
        places: T, or 0 where rows are kept.
        numbers: float64 that :attr:`grads` and :attr:`inputs` hold.
        grads: [n, S, columns], or gradients by what the weight writes, [n, S, T, O].
        inputs: what the weight reads, [n, T, I].
    """

    name: str
    parameter: nn.Parameter
    first: int
    last: int
    places: int
    numbers: int
    grads: Tensor = field(default_factory=lambda: torch.empty(0))
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def columns(self) -> int:
        """Returns how many columns of J these are."""
        return (self.last - self.first) * (self.parameter[0].numel() if self.places else 1)

    def settle(self, samples: int, slots: int, room: Tensor) -> None:
        """Takes room for its numbers, [:attr:`numbers`] zeros."""
        width = self.last - self.first
        if self.places:
            side = self.parameter[0].numel()
            inputs, grads = room.split([samples * self.places * side, samples * slots * self.places * width])
            self.inputs = inputs.view(samples, self.places, side)
            self.grads = grads.view(samples, slots, self.places, width)
        else:
            self.grads = room.view(samples, slots, width)

    def add_to(self, gram: Tensor, *, limit: int) -> None:
        """Adds these columns' products to the lower triangle of a Gram matrix, and forgets them.

        Args:
            gram: [m, m].
            limit: numbers that may be held besides.
        """
        if self.places:
            add_outer(gram, self.inputs, self.grads, limit=limit)
        else:
            add_columns(gram, self.grads.flatten(0, 1))
        self.grads = self.inputs = torch.empty(0)


def cut_parameter(
    name: str, parameter: nn.Parameter, *, samples: int, slots: int, places: int, most: int, parts: int
) -> Iterator[Portion]:
    """Cuts a parameter's columns into portions.

    Args:
        name, parameter: the parameter.
        samples, slots: n and S.
        places: T where rows are outer products, else 0.
        most: numbers that a portion may hold, as far as possible.
        parts: least number of portions, where there are columns enough.
    """
    each = samples * slots * (places or 1)  # numbers per column, or per output
    shared = samples * places * parameter[0].numel() if places else 0
    length = len(parameter) if places else parameter.numel() * (2 if parameter.is_complex() else 1)
    width = min(max(1, (most - shared) // each, math.ceil(length / MOST_PARTS)), max(1, math.ceil(length / parts)))
    for first in range(0, length, width):
        last = min(first + width, length)
        numbers = each * (last - first) + shared
        yield Portion(name=name, parameter=parameter, first=first, last=last, places=places, numbers=numbers)


def group_portions(portions: Sequence[Portion], *, most: int) -> Iterator[list[Portion]]:
    """Groups consecutive portions that hold so many numbers together, or are one."""
    load: list[Portion] = []
    for portion in portions:
        if load and sum(each.numbers for each in load) + portion.numbers > most:
            yield load
            load = []
        load.append(portion)
    if load:
        yield load
