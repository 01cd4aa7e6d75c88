"""Symmetries of a residual stream: what many layers write to and norms read.

A LayerNorm forgets the mean of what it reads (the direction of ones) and, but for its eps, the scale; an RMSNorm
forgets the scale alone. So whatever writes the stream may add a multiple of ones, and all writers and readers together
may rotate it: by all of O(d) under RMSNorm, by the rotations that fix the ones under LayerNorm.

Legend: d width of the stream, gamma and beta gain and shift of a norm.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from madzoo.gauges import Places, Slices, diagonal_term, matrix_term, mixed, scale, slices_of, vector_term
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = [
    "NormReader",
    "norm_symmetries",
    "ones_direction",
    "rotation",
    "stream_scale",
    "unseen_mean",
    "written_ones",
    "zero_sum",
]


class NormReader(NamedTuple):
    """A norm of the stream and the linear maps that read it, and nothing else; or maps that read the stream itself.

    Attributes:
        weights: the maps' weights, and where each reads the channels: several slices for several positions.
        gain, bias: the norm's gamma and beta, None where it has none.
        reader_biases: by weight, the names of the maps' biases, where they have one.
        centred: True for a LayerNorm.
    """

    weights: Places
    gain: str | None = None
    bias: str | None = None
    reader_biases: Mapping[str, str] = MappingProxyType({})
    centred: bool = False


def rotation(name: str, width: int, *, writers: Places, readers: Sequence[NormReader], fixes_ones: bool) -> Symmetry:
    """Declares that the stream may be rotated, if every writer and every reader turns with it.

    Args:
        name: of the symmetry.
        width: d.
        writers: all parameters that write the stream, and the axis along which they do.
        readers: all norms, and maps, that read it.
        fixes_ones: True under LayerNorm: (d-1)(d-2)/2 dimensions; False under RMSNorm: d(d-1)/2.
    """
    dimension = (width - 1) * (width - 2) // 2 if fixes_ones else width * (width - 1) // 2

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        to, of, owner, sign = _triangles(width) if fixes_ones else _pairs(width)
        turned = torch.linalg.matrix_exp(t.new_zeros(width, width).index_put((to, of), sign.to(t) * t[owner], True))
        moved = dict(params)
        for key, slices in slices_of(writers):
            moved[key] = mixed(moved[key], slices, turned[None])
        for reader in readers:
            gain = params[reader.gain].to(t) if reader.gain else t.new_ones(width)
            for key, slices in slices_of(reader.weights):
                moved[key] = mixed(moved[key], slices, (turned * gain / gain[:, None])[None])
            if reader.bias:
                moved[reader.bias] = mixed(moved[reader.bias], Slices(), (turned * gain[:, None] / gain)[None])
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        to, of, owner, sign = _triangles(width) if fixes_ones else _pairs(width)
        for key, slices in slices_of(writers):
            yield _owned(matrix_term(key, params[key], slices, to, of, weight=sign), owner, slices.block)
        for reader in readers:
            gain = params[reader.gain] if reader.gain else torch.ones(width, dtype=torch.float64)
            ratio = sign * (gain[of] / gain[to])
            for key, slices in slices_of(reader.weights):
                yield _owned(matrix_term(key, params[key], slices, to, of, weight=ratio), owner, slices.block)
            if reader.bias:
                turned = sign * gain[to] / gain[of]
                yield _owned(matrix_term(reader.bias, params[reader.bias], Slices(), to, of, weight=turned), owner)

    return from_terms(name, dimension, terms, transform=transform)


def stream_scale(name: str, width: int, *, writers: Places) -> Symmetry:
    """Declares that the whole stream may grow: true only where every norm that reads it has eps = 0."""

    def terms(params: Parameters) -> Iterator[Term]:
        for key, slices in slices_of(writers):
            every = diagonal_term(key, params[key], slices, width, slices.power)
            yield dataclasses.replace(every, coefficients=torch.zeros_like(every.coefficients))

    return from_terms(name, 1, terms)


def ones_direction(name: str, width: int, *, writers: Mapping[str, Slices], inputs: Mapping[str, int]) -> Symmetry:
    """Declares that each input of a writer may add a multiple of ones to a stream that only LayerNorms read.

    Args:
        name: of the symmetry.
        width: d.
        writers: all parameters that write the stream, and the axis along which they do.
        inputs: for each the number of elements beside that axis: 1 for a bias.
    """

    def terms(params: Parameters) -> Iterator[Term]:
        start = 0
        for key, slices in writers.items():
            size = inputs[key]
            every = torch.arange(size).repeat_interleave(width * slices.block)
            others = params[key].movedim(slices.axis, 0).shape[1:]
            yield Term(
                parameter=key,
                axis=slices.axis,
                rows=slices.rows(width).repeat(size),
                coefficients=start + every,
                source=torch.eye(size, dtype=torch.float64).reshape(size, *others),
                source_rows=every,
                weights=torch.ones(len(every), dtype=torch.float64),
            )
            start += size

    return from_terms(name, sum(inputs.values()), terms)


def unseen_mean(name: str, width: int, *, writers: Places, readers: Places) -> Symmetry:
    """Declares that a multiple of ones, linear in a value, may be added to it, if linear maps take it back.

    For a value that LayerNorms read through a residual sum, which do not see the ones, and linear maps directly.

    Args:
        name: of the symmetry.
        width: d, also the number of generators.
        writers: all parameters that write the value.
        readers: the weights of the maps that read it.
    """
    to, of = torch.arange(width).repeat(width), torch.arange(width).repeat_interleave(width)

    def terms(params: Parameters) -> Iterator[Term]:
        for key, slices in slices_of(writers):
            yield _owned(matrix_term(key, params[key], slices, to, of), of, slices.block)
        for key, slices in slices_of(readers):
            yield _owned(matrix_term(key, params[key], slices, of, to, weight=-1.0), of, slices.block)

    return from_terms(name, width, terms)


def written_ones(name: str, module: nn.Module, writers: Mapping[str, Slices]) -> Symmetry:
    """Declares :func:`ones_direction` of parameters of a module, each of which writes the whole stream."""
    shapes = {key: (module.get_parameter(key).shape, slices.axis) for key, slices in writers.items()}
    width = next(shape[axis] for shape, axis in shapes.values())
    inputs = {key: shape.numel() // width for key, (shape, _) in shapes.items()}
    return ones_direction(name, width, writers=writers, inputs=inputs)


def norm_symmetries(name: str, module: nn.Module, norm: NormReader) -> list[Symmetry]:
    """Declares what a norm shares with the linear maps that read it: gain, shift, and what it cannot show.

    Args:
        name: of the family: the symmetries are ``name.norm_gain``, ``name.norm_shift`` and ``name.zero_sum``.
        module: whose parameters they are.
        norm: a norm with a gain, its shift and readers.
    """
    assert norm.gain is not None
    width = len(module.get_parameter(norm.gain))
    biased = all(weight in norm.reader_biases for weight in norm.weights)
    grow = {norm.gain: Slices()} | ({norm.bias: Slices()} if norm.bias else {})
    found = [scale(f"{name}.norm_gain", width, grow=grow, shrink=norm.weights)]
    if norm.bias and (norm.centred or biased):
        found.append(_norm_shift(f"{name}.norm_shift", width, norm))
    for weight in norm.weights if norm.centred else ():
        bias, rows = norm.reader_biases.get(weight), len(module.get_parameter(weight))
        if bias or not norm.bias:
            found.append(zero_sum(f"{name}.zero_sum", rows, reader=weight, norm=norm, reader_bias=bias))
    return found


def zero_sum(name: str, rows: int, *, reader: str, norm: NormReader, reader_bias: str | None) -> Symmetry:
    """Declares that a row reading a LayerNorm may add a multiple of 1/gamma: what it reads sums to zero.

    Args:
        name: of the symmetry.
        rows: of the reader; it has a generator for each position that it reads.
        reader: name of its weight, a key of ``norm.weights``, whose axis 0 are the rows.
        norm: the norm it reads.
        reader_bias: takes up what the norm's shift adds; only a norm without one allows None.
    """
    places = [slices for key, slices in slices_of(norm.weights) if key == reader]
    row = torch.arange(rows).repeat_interleave(len(places))
    every = torch.arange(len(row))

    def terms(params: Parameters) -> Iterator[Term]:
        weight, one = params[reader], torch.ones(len(row), dtype=torch.float64)
        added = torch.stack([_inverse_gain(weight, norm, slices, params) for slices in places])
        where = {"rows": row, "coefficients": every, "source_rows": torch.arange(len(places)).repeat(rows)}
        yield Term(parameter=reader, axis=0, source=added, weights=one, **where)
        if norm.bias and reader_bias:
            beta = params[norm.bias]
            taken = (
                (beta / params[norm.gain] if norm.gain else beta).sum() * added[0][added[0] != 0].numel() / len(beta)
            )
            where |= {"source_rows": torch.zeros_like(row)}
            yield Term(parameter=reader_bias, axis=0, source=taken.reshape(1), weights=-one, **where)

    return from_terms(name, len(row), terms)


def _norm_shift(name: str, width: int, norm: NormReader) -> Symmetry:
    """Declares that beta may change: the readers' biases make up for it, or, of a LayerNorm, their weights.

    A row without a bias takes W / gamma times the sum of beta / gamma, of which it reads nothing but beta.
    """
    lacking = any(weight not in norm.reader_biases for weight in norm.weights)

    def terms(params: Parameters) -> Iterator[Term]:
        assert norm.bias is not None
        assert norm.gain is not None
        beta, gain = params[norm.bias], params[norm.gain]
        total = (beta / gain).sum() if lacking else torch.ones((), dtype=torch.float64)
        own = diagonal_term(norm.bias, beta, Slices(additive=True), width, 1.0)
        yield dataclasses.replace(own, weights=own.weights * total)
        for key, slices in slices_of(norm.weights):
            weight, bias = params[key], norm.reader_biases.get(key)
            columns = weight.movedim(slices.axis, 0)[slices.rows(width)].reshape(width, len(weight), -1).sum(-1)
            if bias:
                yield vector_term(bias, -total * columns)
                continue
            rows = torch.arange(len(weight)).repeat(width)
            yield Term(
                parameter=key,
                axis=0,
                rows=rows,
                coefficients=torch.arange(width).repeat_interleave(len(weight)),
                source=_inverse_gain(weight, norm, slices, params).unsqueeze(0),
                source_rows=torch.zeros_like(rows),
                weights=-columns.flatten().double(),
            )

    return from_terms(name, width, terms)


def _inverse_gain(weight: Tensor, norm: NormReader, slices: Slices, params: Parameters) -> Tensor:
    """Returns a row of the reader that holds 1/gamma where the channels lie, and zeros elsewhere."""
    row = torch.zeros_like(weight[0])
    inverse = 1 / params[norm.gain] if norm.gain else row.new_ones(weight.shape[slices.axis])
    channels = row.movedim(slices.axis - 1, 0)
    channels[slices.rows(len(inverse))] = inverse.reshape(-1, *[1] * (row.ndim - 1)).to(row.dtype)
    return row


def _pairs(width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (to, of, generator, sign) of the skew matrices E_ij - E_ji, i < j."""
    i, j = torch.triu_indices(width, width, offset=1)
    k, one = torch.arange(len(i)), torch.ones(len(i), dtype=torch.float64)
    return torch.cat([i, j]), torch.cat([j, i]), torch.cat([k, k]), torch.cat([one, -one])


def _triangles(width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the same of E_0i + E_ij + E_j0 less its transpose, 0 < i < j: a basis of those that send ones to 0."""
    i, j = torch.triu_indices(width - 1, width - 1, offset=1) + 1
    zero, k, one = torch.zeros_like(i), torch.arange(len(i)), torch.ones(len(i), dtype=torch.float64)
    to = torch.cat([zero, i, j, i, j, zero])
    of = torch.cat([i, j, zero, zero, i, j])
    return to, of, k.repeat(6), torch.cat([one, one, one, -one, -one, -one])


def _owned(term: Term, owner: Tensor, block: int = 1) -> Term:
    """Renumbers the entries of a term: entry t belongs to generator ``owner[t]``."""
    return dataclasses.replace(term, coefficients=owner.repeat_interleave(block))
