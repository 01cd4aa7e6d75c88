"""Quantization: (module, batches) in, frozen record or new module out."""

from madzoo.quantization.mixed_precision import allocate_bits, measured_increases, mixed_plan, reported_increases
from madzoo.quantization.oscillation import OscillationRecord
from madzoo.quantization.ptq import PostTraining, post_training
from madzoo.quantization.qat import Qat, QatRecord, prepare_qat
from madzoo.quantization.sensitivity import Metric, SensitivityReport, sensitivity
from madzoo.quantization.straight_through import ESTIMATORS
from madzoo.quantization.whole_model import quantize

__all__ = [
    "ESTIMATORS",
    "Metric",
    "OscillationRecord",
    "PostTraining",
    "Qat",
    "QatRecord",
    "SensitivityReport",
    "allocate_bits",
    "measured_increases",
    "mixed_plan",
    "post_training",
    "prepare_qat",
    "quantize",
    "reported_increases",
    "sensitivity",
]
