"""The symmetries of biases, batch norms and maps with few outputs, as records: what moves between layers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from madzoo.gauges import COLUMNS, Places, Slices, diagonal_term, offset, rows_of, scale, vector_term
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["batch_norm_scale", "batch_norm_scales", "batch_norm_shift", "shift", "unseen"]


def shift(
    name: str,
    channels: int,
    *,
    up: Places,
    readers: Mapping[str, str],
    slices: Slices | Sequence[Slices] = COLUMNS,
    down: Places = MappingProxyType({}),
) -> Symmetry:
    """Declares that a shift may move from before linear maps into their own biases.

    Args:
        name: of the symmetry.
        channels: their number.
        up: what adds to the channels.
        readers: the weights of all maps that read them, and their biases; a convolution only without padding.
        slices: where each of them reads.
        down: what else takes the shift back, as where a residual sum passes it on.
    """
    places = [slices] if isinstance(slices, Slices) else list(slices)
    plain = offset(name, channels, up=up, down=down)

    def taken(params: Parameters, weight: str) -> Tensor:
        found = [_columns(params[weight], one, channels) for one in places]
        return torch.stack(found).sum(0)

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        assert plain.transform is not None
        moved = plain.transform(params, t)
        return moved | {bias: moved[bias] - t @ taken(params, weight) for weight, bias in readers.items()}

    def terms(params: Parameters) -> Iterator[Term]:
        assert plain.terms is not None
        yield from plain.terms(params)
        for weight, bias in readers.items():
            yield vector_term(bias, -taken(params, weight))

    return from_terms(name, channels, terms, transform=transform)


def batch_norm_scale(
    name: str, module: nn.Module, *, grow: Places, norms: Sequence[str], shrink: Places = MappingProxyType({})
) -> Symmetry:
    """Declares that a channel may grow in front of batch norms with fixed statistics, which take it back.

    Args:
        name: of the symmetry.
        module: whose parameters they are.
        grow: what writes the channels.
        norms: names of the batch norms that read them, with gain and shift.
        shrink: what else reads them.
    """
    statistics = [_statistics(module, norm) for norm in norms]
    gains = {f"{norm}.weight": Slices() for norm in norms}
    plain = scale(name, len(statistics[0][0]), grow=grow, shrink={**shrink, **gains})

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        assert plain.transform is not None
        moved = plain.transform(params, t)
        for norm, (mean, deviation) in zip(norms, statistics, strict=True):
            # The gain falls by exp(-t) and the mean that is taken away with it.
            taken = params[f"{norm}.weight"] * mean / deviation
            moved[f"{norm}.bias"] = moved[f"{norm}.bias"] + taken * torch.expm1(-t)
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        assert plain.terms is not None
        yield from plain.terms(params)
        for norm, (mean, deviation) in zip(norms, statistics, strict=True):
            taken = params[f"{norm}.weight"] * mean / deviation
            yield diagonal_term(f"{norm}.bias", taken, Slices(), len(mean), -1.0)

    return from_terms(name, plain.dimension, terms, transform=transform)


def batch_norm_shift(name: str, module: nn.Module, *, up: Places, norms: Sequence[str]) -> Symmetry:
    """Declares that a bias in front of batch norms with fixed statistics may change if their shifts follow."""
    statistics = [_statistics(module, norm) for norm in norms]
    plain = offset(name, len(statistics[0][0]), up=up, down={})

    def transform(params: Parameters, t: Tensor) -> dict[str, Tensor]:
        assert plain.transform is not None
        moved = plain.transform(params, t)
        for norm, (_, deviation) in zip(norms, statistics, strict=True):
            moved[f"{norm}.bias"] = moved[f"{norm}.bias"] - params[f"{norm}.weight"] / deviation * t
        return moved

    def terms(params: Parameters) -> Iterator[Term]:
        assert plain.terms is not None
        yield from plain.terms(params)
        for norm, (mean, deviation) in zip(norms, statistics, strict=True):
            yield diagonal_term(f"{norm}.bias", params[f"{norm}.weight"] / deviation, Slices(), len(mean), -1.0)

    return from_terms(name, plain.dimension, terms, transform=transform)


def batch_norm_scales(name: str, module: nn.Module, *, before: str, norm: str) -> list[Symmetry]:
    """Declares both of one batch norm and the convolution or linear map in front of it, which may have a bias."""
    biased = getattr(module.get_submodule(before), "bias", None) is not None
    rows = rows_of(f"{before}.weight", bias=biased)
    found = [batch_norm_scale(f"{name}.batch_norm_scale", module, grow=rows, norms=[norm])]
    if biased:
        up = {f"{before}.bias": Slices()}
        found.append(batch_norm_shift(f"{name}.batch_norm_shift", module, up=up, norms=[norm]))
    return found


def unseen(
    name: str, channels: int, *, writers: Mapping[str, int], reader: str, outputs: int, start: int = 0
) -> Symmetry:
    """Declares that what a linear map with fewer outputs than channels does not read may be anything.

    Args:
        name: of the symmetry.
        channels: their number, above ``outputs``.
        writers: the parameters that write the channels, along axis 0, and have no other reader; each with its number
            of inputs, 1 for a bias.
        reader: weight of the map [outputs, ...].
        outputs: of the map.
        start: its column that reads the first channel.
    """
    lost = max(channels - outputs, 0)

    def terms(params: Parameters) -> Iterator[Term]:
        weight = params[reader][:, start : start + channels]
        silent = torch.linalg.svd(weight, full_matrices=True).Vh[outputs:]
        first = 0
        for key, inputs in writers.items():
            if params[key].ndim == 1:
                term = vector_term(key, silent)
                yield dataclasses.replace(term, coefficients=term.coefficients + first)
            else:
                number = torch.arange(lost * inputs)
                yield Term(
                    parameter=key,
                    axis=1,
                    rows=number % inputs,
                    coefficients=first + number,
                    source=silent,
                    source_rows=number // inputs,
                    weights=torch.ones(len(number), dtype=torch.float64),
                )
            first += lost * inputs

    return from_terms(name, lost * sum(writers.values()), terms)


def _statistics(module: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    """Returns the fixed mean and deviation of a batch norm."""
    found = module.get_submodule(norm)
    variance = found.get_buffer("running_var") + float(getattr(found, "eps", 0.0))
    return found.get_buffer("running_mean"), variance.sqrt()


def _columns(reader: Tensor, slices: Slices, channels: int) -> Tensor:
    """Returns what one unit of each channel adds to the outputs, [channels, out]; taps are summed."""
    columns = reader.movedim(slices.axis, 0)[slices.rows(channels)]
    return columns.flatten(2).sum(-1) if columns.ndim > 2 else columns
