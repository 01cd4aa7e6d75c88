"""Geometry of a trained network: (module, batch) in, frozen record out."""

from madzoo.geometry.curvature import Curvature, curvature
from madzoo.geometry.effective import EffectiveDimension, SpectrumSummary, effective_dimension, rank_above
from madzoo.geometry.gram import GramMatrix, gram_matrix
from madzoo.geometry.hessian import CurvatureOperator, hessian_vector_product
from madzoo.geometry.ledger import symmetry_ledger
from madzoo.geometry.ledger_record import LedgerItem, SymmetryLedger
from madzoo.geometry.noise_scale import NoiseScale, gradient_noise_scale
from madzoo.geometry.rank import LocalDimension, local_dimension
from madzoo.geometry.report import GeometryReport, report

__all__ = [
    "Curvature",
    "CurvatureOperator",
    "EffectiveDimension",
    "GeometryReport",
    "GramMatrix",
    "LedgerItem",
    "LocalDimension",
    "NoiseScale",
    "SpectrumSummary",
    "SymmetryLedger",
    "curvature",
    "effective_dimension",
    "gradient_noise_scale",
    "gram_matrix",
    "hessian_vector_product",
    "local_dimension",
    "rank_above",
    "report",
    "symmetry_ledger",
]
