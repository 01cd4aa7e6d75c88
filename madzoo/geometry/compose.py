"""All symmetries of a module tree: those its modules declare, and those that rules know for torch.nn and timm classes.

Every name is made absolute, tied parameters go by their first name.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.geometry.sparse_terms import terms_of
from madzoo.symmetry import Parameters, Symmetry, Term

__all__ = ["Placed", "declared", "mixture", "parameters_of", "place"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A symmetry at its place in a model.

    Attributes:
        symmetry: with names relative to the module that declares it.
        path: of that module, "" for the model itself.
        names: absolute names of its parameters, by relative name.
        declared: True where the module says so itself, False where a rule of this package does.
        on_data: True where it holds on the sample only, as for a unit that never fires on it.
    """

    symmetry: Symmetry
    path: str
    names: Mapping[str, str]
    declared: bool
    on_data: bool = False

    def terms(self, params: Parameters) -> list[Term]:
        """Returns its terms at the model's parameters ``params``, under absolute names."""
        own = {local: params[name] for local, name in self.names.items()}
        found = terms_of(self.symmetry, own)
        for term in found:
            if term.parameter not in self.names:
                raise ConfigError(
                    f"symmetry {self.symmetry.name!r} names a parameter its module does not have.",
                    asked=term.parameter,
                    resolved=self.path or "the model",
                    todo=nearest(term.parameter, self.names),
                )
        return [dataclasses.replace(term, parameter=self.names[term.parameter]) for term in found]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the floating parameters, by first name, detached."""
    named = model.named_parameters()
    return {name: p.detach() for name, p in named if p.is_floating_point() or p.is_complex()}


def place(model: nn.Module, path: str, symmetry: Symmetry, *, declared: bool, on_data: bool = False) -> Placed:
    """Gives a symmetry its absolute parameter names."""
    first = {id(p): name for name, p in model.named_parameters()}
    own = model.get_submodule(path).named_parameters(remove_duplicate=False)
    names = {local: first[id(p)] for local, p in own if p.is_floating_point() or p.is_complex()}
    return Placed(symmetry=symmetry, path=path, names=names, declared=declared, on_data=on_data)


def declared(model: nn.Module) -> Iterator[Placed]:
    """Yields what the modules of a tree declare in their ``symmetries()``."""
    for path, module in model.named_modules():
        found: Callable[[], list[Symmetry]] | None = getattr(module, "symmetries", None)
        for symmetry in found() if callable(found) else []:
            yield place(model, path, symmetry, declared=True)


def mixture(terms: list[Term], coefficients: Tensor, params: Parameters) -> dict[str, Tensor]:
    """Returns the combination of all generators with the given coefficients, whole tensors by parameter name."""
    total: dict[str, Tensor] = {}
    for term in terms:
        whole = total.setdefault(term.parameter, torch.zeros_like(params[term.parameter]))
        moved = whole.movedim(term.axis, 0) if whole.ndim else whole.reshape(1)
        factors = (coefficients[term.coefficients] * term.weights).to(whole.dtype)
        if len(term.rows) * moved[0].numel() <= len(moved) * len(term.source):
            values = term.source[term.source_rows] * factors.reshape(-1, *[1] * (moved.ndim - 1))
            moved.index_add_(0, term.rows, values.to(whole.dtype))
        else:  # many entries share few slices: their coefficients are summed before slices are touched
            matrix = torch.zeros(len(moved), len(term.source), dtype=whole.dtype)
            matrix.index_put_((term.rows, term.source_rows), factors, accumulate=True)
            moved += torch.tensordot(matrix, term.source.to(whole.dtype), dims=1)
    return total
