"""Operators: tensor in, tensor out. The reference stands beside every fast path; one dispatcher chooses."""

from madzoo.ops.causal_conv1d import causal_conv1d, causal_conv1d_step
from madzoo.ops.delta_rule import delta_rule, delta_rule_step
from madzoo.ops.diagonal_scan import diagonal_scan
from madzoo.ops.discretize import discretize_bilinear, discretize_euler, discretize_zoh
from madzoo.ops.gated_mean import gated_mean
from madzoo.ops.hippo import diagonal_init, hippo_matrix, nplr
from madzoo.ops.linear import linear
from madzoo.ops.long_conv import long_conv
from madzoo.ops.oscillator_scan import oscillator_scan
from madzoo.ops.rms_norm import rms_norm
from madzoo.ops.rotary import accumulate_angles, rotate_pairs
from madzoo.ops.scan import linear_scan
from madzoo.ops.selective_scan import selective_scan, use_backend
from madzoo.ops.ssd import ssd, ssd_step
from madzoo.ops.trapezoidal_ssd import trapezoidal_ssd, trapezoidal_ssd_step
from madzoo.ops.vandermonde import vandermonde

__all__ = [
    "accumulate_angles",
    "causal_conv1d",
    "causal_conv1d_step",
    "delta_rule",
    "delta_rule_step",
    "diagonal_init",
    "diagonal_scan",
    "discretize_bilinear",
    "discretize_euler",
    "discretize_zoh",
    "gated_mean",
    "hippo_matrix",
    "linear",
    "linear_scan",
    "long_conv",
    "nplr",
    "oscillator_scan",
    "rms_norm",
    "rotate_pairs",
    "selective_scan",
    "ssd",
    "ssd_step",
    "trapezoidal_ssd",
    "trapezoidal_ssd_step",
    "use_backend",
    "vandermonde",
]
