"""Landscapes with known answers: what the straight-through estimator does where it can be proved or searched."""

from madzoo.landscape.flat_valley import (
    VALLEY_METHODS,
    Valley,
    ValleyRun,
    best_grid_point,
    best_random_rounding,
    descend_valley,
    draw_valley,
    round_minimiser,
)
from madzoo.landscape.sparse_recovery import (
    RECOVERIES,
    SparseProblems,
    draw_sparse_problems,
    recover_support,
    support_exploration,
)
from madzoo.landscape.straight_through import TwoLevelOrbit, two_level_orbit

__all__ = [
    "RECOVERIES",
    "VALLEY_METHODS",
    "SparseProblems",
    "TwoLevelOrbit",
    "Valley",
    "ValleyRun",
    "best_grid_point",
    "best_random_rounding",
    "descend_valley",
    "draw_sparse_problems",
    "draw_valley",
    "recover_support",
    "round_minimiser",
    "support_exploration",
    "two_level_orbit",
]
