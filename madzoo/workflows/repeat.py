"""Whether a repeated measurement agrees with the stated one, within tolerances that another machine must meet.

Ranks and counts must be equal. Singular values may differ by 1e-6 of themselves plus 1e-12 of the largest: the last
digits of a float64 SVD; what is computed from them, and the curvature, by 1e-3 of itself. A metric may differ by 1e-3
of itself or by two samples: float32 sums depend on the machine. A change of the loss may differ by 1e-2 of itself or
1e-4 of the loss, a predicted one by 1e-2 of itself or 1e-4 of the largest of its bit width, a rank correlation by one
exchange of two neighbours: 12 / (k (k^2 - 1)) over k groups.
Times and versions are not compared.
"""

import math

from madzoo.geometry import GeometryReport
from madzoo.quantization import SensitivityReport

__all__ = ["geometry_differences", "sensitivity_differences"]

CHANGE = 1e-2  # a change is a difference of nearly equal numbers
LOSS_SHARE = 1e-4


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
    exact = ("metric", "policy", "n", "group_n", "tensors", "num_weights", "sample_shape", "sequence_length")
    wrong = [
        f"{key} {getattr(stated, key)}, now {getattr(found, key)}"
        for key in exact
        if getattr(stated, key) != getattr(found, key)
    ]
    samples = [report.prediction.sample_sha256 if report.prediction else None for report in (stated, found)]
    if samples[0] != samples[1]:
        wrong.append("the sample of the predictions is another")
    wrong += _whole_differences(stated, found) + _group_differences(stated, found) + _rank_differences(stated, found)
    return [f"quantization.json: {text}" for text in sorted(wrong)]


def _whole_differences(stated: SensitivityReport, found: SensitivityReport) -> list[str]:
    old, new = (
        {f"{report.metric} at reference": report.reference, "loss at reference": report.reference_loss}
        | {f"{report.metric} at {entry.bits} bits": entry.value for entry in report.entries}
        | {f"change of the loss at {entry.bits} bits": entry.delta_loss for entry in report.entries}
        for report in (stated, found)
    )
    two = 2 / stated.n if stated.higher_is_better else 0.0
    absolute = {"change": LOSS_SHARE * abs(stated.reference_loss or 0.0), stated.metric: two}
    relative = {"change": CHANGE, stated.metric: 1e-3}
    return [
        f"{key} {old.get(key)}, now {new.get(key)}"
        for key in old.keys() | new.keys()
        if not _close(
            old.get(key),
            new.get(key),
            relative=relative.get(key.split()[0], 1e-3),
            absolute=absolute.get(key.split()[0], 0.0),
        )
    ]


def _group_differences(stated: SensitivityReport, found: SensitivityReport) -> list[str]:
    old, new = _group_values(stated), _group_values(found)
    floors: dict[tuple[str, int], float] = {}
    for (key, _, bits), value in old.items():
        least = LOSS_SHARE * (abs(stated.reference_loss or 0.0) if key == "delta_loss" else abs(value or 0.0))
        floors[key, bits] = max(floors.get((key, bits), 0.0), least)
    return [
        f"{key} of {group} at {bits} bits {old.get((key, group, bits))}, now {new.get((key, group, bits))}"
        for key, group, bits in old.keys() | new.keys()
        if not _close(
            old.get((key, group, bits)),
            new.get((key, group, bits)),
            relative=CHANGE,
            absolute=floors.get((key, bits), 0.0),
        )
    ]


def _group_values(report: SensitivityReport) -> dict[tuple[str, str, int], float | None]:
    keys = ("delta_loss", "predicted_quadratic", "predicted_trace", "sqnr_db")
    return {
        (key, group.name, entry.bits): getattr(entry, key)
        for group in report.groups
        for entry in group.entries
        for key in keys
    }


def _rank_differences(stated: SensitivityReport, found: SensitivityReport) -> list[str]:
    k = max(len(stated.groups), 2)
    return [
        f"rank correlation at {old.bits} bits {old.spearman}, now {new.spearman}"
        for old, new in zip(stated.ranking, found.ranking, strict=False)
        if not _close(old.spearman, new.spearman, relative=0.0, absolute=12.001 / (k * (k * k - 1)))
    ]


def _close(old: float | None, new: float | None, *, relative: float, absolute: float) -> bool:
    if old is None or new is None:
        return old is new
    return math.isclose(old, new, rel_tol=relative, abs_tol=absolute)
