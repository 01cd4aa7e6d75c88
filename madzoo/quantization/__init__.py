"""Quantization: (module, batches) in, frozen record or new module out."""

from madzoo.quantization.round_to_nearest import quantize
from madzoo.quantization.sensitivity import Metric, SensitivityReport, sensitivity

__all__ = ["Metric", "SensitivityReport", "quantize", "sensitivity"]
