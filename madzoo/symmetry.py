"""The frozen record by which a module declares a continuous symmetry of its parameters."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Symmetry"]

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Symmetry:
    """Declares a family of parameter changes that leaves a module's function unchanged.

    Parameter names are relative to the declaring module. A module lists its symmetries in ``symmetries()``.

    Attributes:
        name: what acts, for instance ``"mamba.BC_scale"``.
        dimension: number of independent generators, hence of parameters the symmetry takes away.
        generators: maps parameters to an iterator of tangents ``{parameter name: tensor of the same shape}``;
            the derivative of the function along each of them is zero.
        transform: the finite action ``(parameters, t) -> parameters`` where one is known, else None.
    """

    name: str
    dimension: int
    generators: Callable[[Parameters], Iterator[dict[str, Tensor]]]
    transform: Callable[[Parameters, Tensor], dict[str, Tensor]] | None = None
