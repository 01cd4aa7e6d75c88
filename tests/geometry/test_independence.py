"""Counting independent generators without writing them out gives the rank of the matrix that they make."""

import itertools

import pytest
import torch
from torch import Tensor

from madzoo.geometry import rests
from madzoo.geometry.independence import joint_ranks
from madzoo.geometry.sparse_terms import terms_of
from madzoo.symmetry import Symmetry, Term

SHAPES = {"a": (6, 5), "b": (9,), "c": (4, 3), "d": (3, 4, 2)}
Group = tuple[int, list[Term]]


def parameters(random: torch.Generator, *, with_complex: bool) -> dict[str, Tensor]:
    kinds = {"c": torch.complex128} if with_complex else {}
    return {
        name: torch.randn(shape, dtype=kinds.get(name, torch.float64), generator=random)
        for name, shape in SHAPES.items()
    }


def sparse(params: dict[str, Tensor], count: int, random: torch.Generator) -> Group:
    """Draws generators that touch a few slices of two parameters each, along any axis."""
    terms = []
    for number in torch.randint(len(SHAPES), (2,), generator=random).tolist():
        name = list(SHAPES)[number]
        axis = int(torch.randint(params[name].ndim, (1,), generator=random))
        source = params[name].movedim(axis, 0)
        entries = 2 * count
        terms.append(
            Term(
                parameter=name,
                axis=axis,
                rows=torch.randint(len(source), (entries,), generator=random),
                coefficients=torch.randint(count, (entries,), generator=random),
                source=source,
                source_rows=torch.randint(len(source), (entries,), generator=random),
                weights=torch.randn(entries, dtype=torch.float64, generator=random),
            )
        )
    return count, terms


def dense(params: dict[str, Tensor], count: int, random: torch.Generator) -> Group:
    """Draws whole tangents."""
    tangents = [
        {k: torch.randn(p.shape, dtype=p.dtype, generator=random) for k, p in params.items()} for _ in range(count)
    ]
    return count, from_tangents(tangents, params)


def combined(groups: list[Group], params: dict[str, Tensor], count: int, random: torch.Generator) -> Group:
    """Draws combinations of what is there already."""
    rows = torch.cat([matrix(group, params) for group in groups])
    mixed = torch.randn(count, len(rows), dtype=torch.float64, generator=random) @ rows
    return count, from_tangents([unflat(row, params) for row in mixed], params)


def from_tangents(tangents: list[dict[str, Tensor]], params: dict[str, Tensor]) -> list[Term]:
    return terms_of(Symmetry(name="s", dimension=len(tangents), generators=lambda p: iter(tangents)), params)


def unflat(row: Tensor, params: dict[str, Tensor]) -> dict[str, Tensor]:
    sizes = [p.numel() * (2 if p.is_complex() else 1) for p in params.values()]
    parts = zip(params.items(), row.split(sizes), strict=True)
    return {
        name: torch.view_as_complex(part.clone().reshape(*p.shape, 2)) if p.is_complex() else part.reshape(p.shape)
        for (name, p), part in parts
    }


def matrix(group: Group, params: dict[str, Tensor]) -> Tensor:
    """Writes generators out entry by entry, [generators, real parameters]."""
    count, terms = group
    whole = {name: p.new_zeros(count, *p.shape) for name, p in params.items()}
    for term in terms:
        places = zip(term.coefficients.tolist(), term.rows.tolist(), term.source_rows.tolist(), strict=True)
        for weight, (generator, row, source) in zip(term.weights.tolist(), places, strict=True):
            whole[term.parameter][generator].movedim(term.axis, 0)[row] += weight * term.source[source]
    parts = [torch.view_as_real(w) if w.is_complex() else w for w in whole.values()]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def added_ranks(groups: list[Group], params: dict[str, Tensor]) -> list[int]:
    found, rows = [0], torch.zeros(0, 1)
    for group in groups:
        new = matrix(group, params)
        rows = torch.cat([rows, new]) if len(rows) else new
        unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
        found.append(int(torch.linalg.matrix_rank(unit, rtol=1e-9)))
    return [after - before for before, after in itertools.pairwise(found)]


@pytest.mark.parametrize("with_complex", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_joint_ranks_are_those_of_the_matrix(seed: int, with_complex: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    params = parameters(random, with_complex=with_complex)
    groups = [sparse(params, count, random) for count in (4, 7, 3)] + [dense(params, 5, random)]
    groups.append(combined(groups, params, 3, random))  # adds nothing
    groups.append(sparse(params, 12, random))
    groups.append(combined(groups[:2], params, 2, random))
    expected = added_ranks(groups, params)
    assert joint_ranks(groups, params, seed=seed) == expected
    assert expected[4] == expected[6] == 0 < sum(expected)


@pytest.mark.parametrize("with_complex", [False, True])
def test_more_generators_than_parameters(with_complex: bool) -> None:
    random = torch.Generator().manual_seed(0)
    params = parameters(random, with_complex=with_complex)
    numbers = sum(p.numel() * (2 if p.is_complex() else 1) for p in params.values())
    groups = [dense(params, numbers - 4, random), sparse(params, 6, random), dense(params, 20, random)]
    assert joint_ranks(groups, params) == added_ranks(groups, params)
    assert sum(added_ranks(groups, params)) == numbers


def test_the_order_moves_dimensions_between_groups_only() -> None:
    random = torch.Generator().manual_seed(0)
    params = parameters(random, with_complex=True)
    groups = [sparse(params, 5, random), dense(params, 3, random)]
    groups.append(combined(groups, params, 4, random))
    there, back = joint_ranks(groups, params), joint_ranks(groups[::-1], params)
    assert there == added_ranks(groups, params) and back == added_ranks(groups[::-1], params)
    assert there != back[::-1] and sum(r or 0 for r in there) == sum(r or 0 for r in back)


def test_a_multiplication_by_i_is_another_direction() -> None:
    c = torch.randn(3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    tangents = [{"c": c}, {"c": 1j * c}, {"c": (2 - 3j) * c}]
    assert joint_ranks([(3, from_tangents(tangents, {"c": c}))], {"c": c}) == [2]


def test_zeros_and_nothing_add_nothing() -> None:
    params = parameters(torch.Generator().manual_seed(0), with_complex=False)
    zero = from_tangents([{"a": torch.zeros(6, 5, dtype=torch.float64)}] * 2, params)
    assert joint_ranks([(2, zero), (0, []), (1, [])], params) == [0, 0, 0]
    assert joint_ranks([], params) == []


def test_small_beside_large_counts_where_it_is_a_direction() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    tangents = [{"a": ones}, {"a": 1e-6 * torch.arange(4.0, dtype=torch.float64)}, {"a": ones + 1e-13}]
    assert joint_ranks([(3, from_tangents(tangents, {"a": ones}))], {"a": ones}) == [2]


def test_a_rest_too_large_to_factor_has_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    params = {"a": torch.randn(6, 5, dtype=torch.float64, generator=random), "b": torch.ones(2, dtype=torch.float64)}
    twice = dense({"a": params["a"]}, 4, random)
    apart = (1, from_tangents([{"b": params["b"]}], params))
    monkeypatch.setattr(rests, "LARGEST_REST", 7)
    assert joint_ranks([twice, twice, apart], params) == [None, None, 1]  # eight that hang together, and one alone
    monkeypatch.setattr(rests, "LARGEST_REST", 8)
    assert joint_ranks([twice, twice, apart], params) == [4, 0, 1]
