"""Local dimensions that hang on the draw: none exceeds the formula, and some draw reaches it."""

from collections import Counter

import pytest

from madzoo.geometry import local_dimension, symmetry_ledger
from tests.geometry.case import draw
from tests.geometry.cases_drawn import DRAWN

DRAWS = 20
FEW = {"resnet_eval": 5}  # where every draw shows the same
SLOW = [pytest.param(name, DRAWS, marks=pytest.mark.slow) for name in FEW]


@pytest.mark.parametrize(("name", "draws"), [*((name, FEW.get(name, DRAWS)) for name in DRAWN), *SLOW])
def test_no_draw_exceeds_the_formula_and_one_reaches_it(name: str, draws: int) -> None:
    case, ranks = DRAWN[name], Counter()
    for seed in range(draws):
        model, x = draw(case, seed)
        found, ledger = local_dimension(model, x), symmetry_ledger(model, x)
        assert (found.rows, found.num_params) == (case.rows, case.num_params)
        assert (ledger.upper_bound, ledger.verified, ledger.rejected) == (case.rank, True, ())
        assert found.rank <= ledger.upper_bound - ledger.inactive, f"draw {seed}"
        ranks[found.rank] += 1
    assert max(ranks) == case.rank, f"{name}: {sorted(ranks.items())}, rank: draws"
