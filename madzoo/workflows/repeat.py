"""Whether a repeated measurement agrees with the stated one, within tolerances that another machine must meet.

Ranks and counts must be equal. Singular values may differ by 1e-6 of themselves plus 1e-12 of the largest: the last
digits of a float64 SVD; what is computed from them, and the curvature, by 1e-3 of itself. A metric may differ by 1e-3
of itself or by two samples: float32 sums depend on the machine.
Times and versions are not compared.
"""

import math

from madzoo.geometry import GeometryReport
from madzoo.quantization import SensitivityReport

__all__ = ["geometry_differences", "sensitivity_differences"]


def geometry_differences(stated: GeometryReport, found: GeometryReport) -> list[str]:
    """Returns what differs, one sentence each; empty where the measurement was repeated."""
    old, new = stated.local_dimension, found.local_dimension
    exact = ("rank", "rows", "num_params", "row_limited", "rank_at", "output")
    wrong = [
        f"{key} {getattr(old, key)}, now {getattr(new, key)}" for key in exact if getattr(old, key) != getattr(new, key)
    ]
    if stated.sample_sha256 != found.sample_sha256:
        wrong.append("the sample is another")
    floor = 1e-12 * (old.sigma_max or 0.0)
    for key in ("sigma_max", "sigma_r"):
        if not _close(getattr(old, key), getattr(new, key), relative=1e-6, absolute=floor):
            wrong.append(f"{key} {getattr(old, key)}, now {getattr(new, key)}")
    wrong += _ledger_differences(stated, found) + _real_differences(stated, found)
    return [f"geometry.json: {text}" for text in wrong]


def _ledger_differences(stated: GeometryReport, found: GeometryReport) -> list[str]:
    old = {item.name: item.lost for item in stated.ledger.items}
    new = {item.name: item.lost for item in found.ledger.items}
    return [
        f"{name} takes {old.get(name)}, now {new.get(name)}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


def _real_differences(stated: GeometryReport, found: GeometryReport) -> list[str]:
    """Compares reals to 1e-3 relative: sums in another order move their last digits only."""
    pairs = {
        key: (getattr(stated.effective, key), getattr(found.effective, key))
        for key in ("stable_rank", "participation_ratio", "entropy_rank")
    }
    if (stated.curvature is None) != (found.curvature is None):
        return ["a curvature is there once only"]
    if stated.curvature and found.curvature:
        keys = ("loss", "lambda_max", "trace")
        pairs |= {key: (getattr(stated.curvature, key), getattr(found.curvature, key)) for key in keys}
    return [
        f"{key} {old}, now {new}"
        for key, (old, new) in pairs.items()
        if not _close(old, new, relative=1e-3, absolute=0.0)
    ]


def sensitivity_differences(stated: SensitivityReport, found: SensitivityReport) -> list[str]:
    """Returns what differs, one sentence each; empty where the measurement was repeated."""
    exact = ("metric", "policy", "n", "tensors", "num_weights")
    wrong = [
        f"{key} {getattr(stated, key)}, now {getattr(found, key)}"
        for key in exact
        if getattr(stated, key) != getattr(found, key)
    ]
    old = {"reference": stated.reference} | {f"{entry.bits} bits": entry.value for entry in stated.entries}
    new = {"reference": found.reference} | {f"{entry.bits} bits": entry.value for entry in found.entries}
    for key in old.keys() | new.keys():
        if not _close(
            old.get(key), new.get(key), relative=1e-3, absolute=2 / stated.n if stated.higher_is_better else 0.0
        ):
            wrong.append(f"{stated.metric} at {key} {old.get(key)}, now {new.get(key)}")
    return [f"quantization.json: {text}" for text in sorted(wrong)]


def _close(old: float | None, new: float | None, *, relative: float, absolute: float) -> bool:
    if old is None or new is None:
        return old is new
    return math.isclose(old, new, rel_tol=relative, abs_tol=absolute)
