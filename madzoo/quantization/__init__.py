"""Quantization: (module, batches) in, frozen record or new module out."""

from madzoo.quantization.increases import measured_increases, reported_increases
from madzoo.quantization.mixed_precision import allocate_bits, mixed_plan
from madzoo.quantization.oscillation import OscillationRecord
from madzoo.quantization.ptq import PostTraining, post_training
from madzoo.quantization.qat import prepare_qat
from madzoo.quantization.qat_record import QatRecord
from madzoo.quantization.qat_run import Qat
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
