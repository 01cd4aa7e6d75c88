"""Small networks whose local dimension is known in closed form: name -> (build, sample shape, rows, P, rank).

Those whose dimension hangs on the draw are in ``tests.geometry.cases_drawn``.
"""

from tests.geometry.case import Case, draw, mlp
from tests.geometry.cases_attention import ATTENTION
from tests.geometry.cases_nets import NETS
from tests.geometry.cases_perceptrons import PERCEPTRONS
from tests.geometry.cases_ssm import STATE_SPACES

__all__ = ["CASES", "Case", "draw", "mlp"]

CASES: dict[str, Case] = PERCEPTRONS | NETS | ATTENTION | STATE_SPACES
