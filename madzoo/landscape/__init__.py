"""Landscapes with known answers: flat valleys and the algorithms that move in them, and the straight-through estimator.

Two meanings of "valley" stand side by side: :class:`Objective` has smooth valleys of minima, along which algorithms
drift; :class:`Valley` is a flat quadratic on a grid, on which estimators that round are tried.
"""

from madzoo.landscape.algorithms import ALGORITHMS, NOISES, Algorithm, Noise
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
from madzoo.landscape.label_noise import Slide, predicted_rate, predicted_steps, slide
from madzoo.landscape.module_objective import ModuleObjective, fit_own_answers
from madzoo.landscape.objective import Objective
from madzoo.landscape.objectives import (
    LeastSquares,
    LinearNetwork,
    ScalarProduct,
    draw_least_squares,
    draw_linear_network,
)
from madzoo.landscape.rescaled_modes import DiagonalSSM, ReluNetwork, draw_relu_network
from madzoo.landscape.sparse_recovery import (
    RECOVERIES,
    SparseProblems,
    draw_sparse_problems,
    recover_support,
    support_exploration,
)
from madzoo.landscape.straight_through import TwoLevelOrbit, two_level_orbit
from madzoo.landscape.trajectories import Trajectories, run_trajectories

__all__ = [
    "ALGORITHMS",
    "NOISES",
    "RECOVERIES",
    "VALLEY_METHODS",
    "Algorithm",
    "DiagonalSSM",
    "LeastSquares",
    "LinearNetwork",
    "ModuleObjective",
    "Noise",
    "Objective",
    "ReluNetwork",
    "ScalarProduct",
    "Slide",
    "SparseProblems",
    "Trajectories",
    "TwoLevelOrbit",
    "Valley",
    "ValleyRun",
    "best_grid_point",
    "best_random_rounding",
    "descend_valley",
    "draw_least_squares",
    "draw_linear_network",
    "draw_relu_network",
    "draw_sparse_problems",
    "draw_valley",
    "fit_own_answers",
    "predicted_rate",
    "predicted_steps",
    "recover_support",
    "round_minimiser",
    "run_trajectories",
    "slide",
    "support_exploration",
    "two_level_orbit",
]
