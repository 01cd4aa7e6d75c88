"""The common symmetries of networks, as records: scales, bases and shifts of what lies between two layers.

A gauge acts on the *channels* of a value inside a network; each parameter that writes or reads these channels owns
one slice per channel along one axis (:class:`Slices`).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = [
    "COLUMNS",
    "Places",
    "Slices",
    "basis",
    "complex_scale",
    "diagonal_term",
    "joined",
    "matrix_term",
    "mixed",
    "offset",
    "quarter_turn",
    "rows_of",
    "scale",
    "slices_of",
    "vector_term",
]


class Slices(NamedTuple):
    """Says which slices of a tensor the channels own.

    Attributes:
        axis: the axis that is cut.
        start: the first slice of channel 0.
        block: slices per channel, one after the other: channel i owns ``start + i * block`` and the next.
        power: how strongly a scale acts, for instance 2 where a channel enters squared.
        only: (axis, index): of each slice only what lies at this index of another axis.
        additive: the tensor holds logarithms, or shifts: it does not grow by a factor, but by ``power``.
    """

    axis: int = 0
    start: int = 0
    block: int = 1
    power: float = 1.0
    only: tuple[int, int] | None = None
    additive: bool = False

    def rows(self, channels: int) -> Tensor:
        """Returns the slices of all channels in order, [channels * block]."""
        return self.start + torch.arange(channels * self.block)

    def grown(self, tensor: Tensor, t: Tensor) -> Tensor:
        """Returns the tensor with channel i grown by t[i]."""
        if self.additive:
            return tensor + self._spread(tensor, self.power * t, 0.0)
        return tensor * self._spread(tensor, (self.power * t).exp(), 1.0)

    def source(self, tensor: Tensor) -> Tensor:
        """Returns what a generator adds, slice by slice: the tensor, or ones; ``axis`` in front."""
        whole = tensor.new_ones(()).expand(tensor.shape) if self.additive else tensor
        return (whole if self.only is None else whole * self._mask(tensor)).movedim(self.axis, 0)

    def _mask(self, tensor: Tensor) -> Tensor:
        axis, index = self.only or (0, 0)
        mask = torch.zeros(tensor.shape[axis], dtype=torch.bool)
        mask[index] = True
        return mask.reshape([-1 if a == axis % tensor.ndim else 1 for a in range(tensor.ndim)])

    def _spread(self, tensor: Tensor, values: Tensor, otherwise: float) -> Tensor:
        whole = values.new_full((tensor.shape[self.axis],), otherwise)
        whole[self.rows(len(values))] = values.repeat_interleave(self.block)
        whole = whole.reshape([-1 if a == self.axis % tensor.ndim else 1 for a in range(tensor.ndim)])
        return whole if self.only is None else torch.where(self._mask(tensor), whole, otherwise)


COLUMNS = Slices(axis=1)  # where a linear map reads

Places = Mapping[str, Slices | Sequence[Slices]]


def slices_of(places: Places) -> Iterator[tuple[str, Slices]]:
    """Yields every tensor with each of its slices: channels may own several in one tensor."""
    for key, slices in places.items():
        for one in [slices] if isinstance(slices, Slices) else slices:
            yield key, one


def rows_of(weight: str, *, bias: bool, start: int = 0) -> dict[str, Slices]:
    """Returns the rows of a linear map as channels, its bias with them.

    Args:
        weight: name of the map's weight, which ends with ``weight``.
        bias: whether it has one.
        start: the row that makes the first channel.
    """
    names = [weight, *([f"{weight.removesuffix('weight')}bias"] if bias else [])]
    return {name: Slices(start=start) for name in names}


def scale(name: str, channels: int, *, grow: Places, shrink: Places) -> Symmetry:
    """Declares that the slices of channel i in some tensors may grow by a factor if those in others shrink by it.

    Args:
        name: of the symmetry.
        channels: their number; each has its own factor.
        grow: the tensors that grow, and where channel 0 begins in them.
        shrink: the tensors that shrink.
    """
    signed = [(k, s, 1.0) for k, s in slices_of(grow)] + [(k, s, -1.0) for k, s in slices_of(shrink)]

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        moved = dict(params)
        for key, slices, sign in signed:
            moved[key] = slices.grown(moved[key], sign * t)
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        for key, slices, sign in signed:
            yield diagonal_term(key, params[key], slices, channels, sign * slices.power)

    return from_terms(name, channels, terms, transform=transform)


def offset(name: str, channels: int, *, up: Places, down: Places) -> Symmetry:
    """Declares that the slices of channel i in some tensors may gain a number if those in others lose it."""

    def additive(places: Places) -> dict[str, list[Slices]]:
        found: dict[str, list[Slices]] = {}
        for key, slices in slices_of(places):
            found.setdefault(key, []).append(slices._replace(additive=True))
        return found

    return scale(name, channels, grow=additive(up), shrink=additive(down))


def basis(name: str, size: int, *, forward: Places, backward: Places, groups: int = 1) -> Symmetry:
    """Declares that channels may change basis, by any invertible matrix.

    Args:
        name: of the symmetry.
        size: number of channels that mix; the group has size^2 dimensions.
        forward: the tensors whose slices are mixed by the matrix: those that write the channels.
        backward: the tensors whose slices are mixed by its inverse, transposed: those that read them.
        groups: how many such bases, for channels one after the other: heads.
    """

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        logs = t.reshape(groups, size, size)
        there, back = torch.linalg.matrix_exp(logs), torch.linalg.matrix_exp(-logs).mT
        moved = dict(params)
        for matrices, places in ((there, forward), (back, backward)):
            for key, slices in slices_of(places):
                moved[key] = mixed(moved[key], slices, matrices)
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        first = torch.arange(groups).repeat_interleave(size * size) * size
        row = first + torch.arange(size).repeat_interleave(size).repeat(groups)
        column = first + torch.arange(size).repeat(size * groups)
        for key, slices in slices_of(forward):
            yield matrix_term(key, params[key], slices, row, column, weight=1.0)
        for key, slices in slices_of(backward):
            yield matrix_term(key, params[key], slices, column, row, weight=-1.0)

    return from_terms(name, groups * size * size, terms, transform=transform)


def complex_scale(name: str, channels: int, *, grow: Places, shrink: Places) -> Symmetry:
    """Declares that channel i may be multiplied by a complex number: slices in some tensors by it, in others over it.

    The last axis of every tensor holds real and imaginary part. The first generators are the sizes' logarithms, the
    others the angles.
    """
    signed = [(k, s, 1.0) for k, s in slices_of(grow)] + [(k, s, -1.0) for k, s in slices_of(shrink)]

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        moved, (size, angle) = dict(params), t.chunk(2)
        for key, slices, sign in signed:
            turned = slices.grown(torch.view_as_complex(moved[key].contiguous()), sign * torch.complex(size, angle))
            moved[key] = torch.view_as_real(turned)
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        for key, slices, sign in signed:
            found = diagonal_term(key, params[key], slices, channels, sign * slices.power)
            yield found
            turned = diagonal_term(key, quarter_turn(params[key]), slices, channels, sign * slices.power)
            yield dataclasses.replace(turned, coefficients=turned.coefficients + channels)

    return from_terms(name, 2 * channels, terms, transform=transform)


def joined(name: str, parts: Sequence[Symmetry]) -> Symmetry:
    """Counts several symmetries as one: their generators one after the other."""
    sizes = [part.dimension for part in parts]

    def terms(params: Parameters) -> Iterator[Term]:
        first = 0
        for part in parts:
            assert part.terms is not None, part.name
            for term in part.terms(params):
                yield dataclasses.replace(term, coefficients=term.coefficients + first)
            first += part.dimension

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        moved = dict(params)
        for part, own in zip(parts, t.split(sizes), strict=True):
            moved = part.transform(moved, own) if part.transform else moved
        return moved

    finite = all(part.transform for part in parts)
    return from_terms(name, sum(sizes), terms, transform=transform if finite else None)


def diagonal_term(key: str, tensor: Tensor, slices: Slices, channels: int, weight: float) -> Term:
    """Returns the term by which generator i adds ``weight`` times the slices of channel i, or ``weight``."""
    rows = slices.rows(channels)
    return Term(
        parameter=key,
        axis=slices.axis,
        rows=rows,
        coefficients=torch.arange(channels).repeat_interleave(slices.block),
        source=slices.source(tensor),
        source_rows=rows,
        weights=torch.full(rows.shape, weight, dtype=torch.float64),
    )


def matrix_term(
    key: str, tensor: Tensor, slices: Slices, to: Tensor, of: Tensor, *, weight: float | Tensor = 1.0
) -> Term:
    """Returns the term by which generator k adds ``weight`` times channel ``of[k]`` to channel ``to[k]``."""
    block = torch.arange(slices.block)
    weights = torch.as_tensor(weight, dtype=torch.float64).expand(len(to)).repeat_interleave(slices.block)
    return Term(
        parameter=key,
        axis=slices.axis,
        rows=(slices.start + to[:, None] * slices.block + block).flatten(),
        coefficients=torch.arange(len(to)).repeat_interleave(slices.block),
        source=slices.source(tensor),
        source_rows=(slices.start + of[:, None] * slices.block + block).flatten(),
        weights=weights,
    )


def vector_term(key: str, added: Tensor) -> Term:
    """Returns the term by which generator k adds ``added[k]`` to a whole vector of parameters, [generators, size]."""
    generators, size = added.shape
    return Term(
        parameter=key,
        axis=0,
        rows=torch.arange(size).repeat(generators),
        coefficients=torch.arange(generators).repeat_interleave(size),
        source=added.flatten(),
        source_rows=torch.arange(generators * size),
        weights=torch.ones(generators * size, dtype=torch.float64),
    )


def quarter_turn(pairs: Tensor) -> Tensor:
    """Returns i times complex numbers whose parts lie along the last axis."""
    return torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1)


def mixed(tensor: Tensor, slices: Slices, matrices: Tensor) -> Tensor:
    """Returns a tensor whose channels are mixed by square matrices, one for each group of channels.

    Shapes:
        tensor [...], matrices [groups, size, size] -> the tensor's.
    """
    groups, size, _ = matrices.shape
    moved = tensor.movedim(slices.axis, 0)
    start, width = slices.start, groups * size * slices.block
    inside = moved[start : start + width].reshape(groups, size, -1)
    mixed = (matrices @ inside).reshape(moved[start : start + width].shape)
    whole = torch.cat([moved[:start], mixed, moved[start + width :]]).movedim(0, slices.axis)
    return whole if slices.only is None else torch.where(slices._mask(tensor), whole, tensor)
