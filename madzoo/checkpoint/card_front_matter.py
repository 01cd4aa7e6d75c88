"""The YAML front matter of a card: what the Hub indexes, and the summaries of the two reports."""

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from madzoo.checkpoint.card_packing import packing_summary
from madzoo.checkpoint.card_records import CardRecords, Row
from madzoo.checkpoint.report_files import GEOMETRY_FILE, QUANTIZATION_FILE
from madzoo.errors import CheckpointError

__all__ = ["GENERATED_KEYS", "HUB_METRICS", "front_matter", "to_yaml"]

GENERATED_KEYS = (
    "license",
    "library_name",
    "pipeline_tag",
    "tags",
    "datasets",
    "metrics",
    "model-index",
    "geometry",
    "quantization",
)
HUB_METRICS = {"top1": "accuracy", "top5": "top_5_accuracy"}  # the Hub's own name where it has one


class Summary(BaseModel):
    """At most 15 plain scalars; absent ones are left out of the YAML."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="forbid")

    def scalars(self) -> dict[str, Any]:
        """Returns the fields that have a value."""
        return self.model_dump(exclude_none=True, by_alias=True)


class GeometrySummary(Summary):
    """The ``geometry:`` block. ``local_dimension`` is a number only where the sample did not limit it."""

    version: int = Field(default=2, serialization_alias="schema")
    weights_sha256: str
    report_sha256: str
    dataset: str
    split: str
    samples: int
    seed: int | None
    output: str
    dtype: str
    num_params: int
    upper_bound: int
    upper_bound_is: str
    local_dimension: int | str
    stable_rank: float
    lambda_max: float | None


class QuantizationSummary(Summary):
    """The ``quantization:`` block: the metric after rounding all weights, and the group that costs most at 4 bits."""

    version: int = Field(serialization_alias="schema")
    weights_sha256: str
    report_sha256: str
    policy: str | None  # of schema 1; it has always been round to nearest
    metric: str
    dataset: str
    split: str
    samples: int
    reference: float
    bits_8: float | None = None
    bits_6: float | None = None
    bits_4: float | None = None
    bits_3: float | None = None
    bits_2: float | None = None
    most_sensitive_group: str | None = None
    spearman_4: float | None = None


def front_matter(records: CardRecords, *, by_hand: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the front matter as plain values.

    Args:
        records: the folder.
        by_hand: keys that someone added to the card; kept after the generated ones.
    """
    cfg = records.config.pretrained_cfg
    rows = records.evaluation.rows if records.evaluation else ()
    names = [*(cfg.get("dataset") or "").split("+"), *(row.settings.get("hub_id") or row.dataset for row in rows)]
    generated = {
        "license": cfg.get("license"),
        "library_name": "madzoo",
        "pipeline_tag": records.task,
        "tags": ["madzoo", "state-space-model", records.task, records.name.partition(".")[0]],
        "datasets": _unique(names),
        "metrics": _unique([HUB_METRICS.get(name, name) for row in rows for name in row.metrics]),
        "model-index": [_model_index(records, rows)] if rows else None,
        "geometry": _geometry(records),
        "quantization": _quantization(records),
    }
    kept = {key: value for key, value in by_hand.items() if key not in GENERATED_KEYS}
    return {key: value for key, value in generated.items() if value} | kept


def to_yaml(values: Mapping[str, Any]) -> str:
    """Writes plain values as YAML that reloads to equal ones.

    Raises:
        CheckpointError: when they do not, so hold something that is no plain scalar, list or dict.
    """
    try:
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=2**16)
    except yaml.YAMLError as error:
        raise CheckpointError(
            f"the front matter holds more than plain values: {error}.", asked=sorted(values)
        ) from error
    if yaml.safe_load(text) != values:
        raise CheckpointError("the front matter does not survive YAML.", asked=sorted(values))
    return text


def _geometry(records: CardRecords) -> dict[str, Any] | None:
    if (report := records.geometry) is None:
        return None
    found = report.measured
    return GeometrySummary(
        weights_sha256=report.weights_sha256,
        report_sha256=records.hashes[GEOMETRY_FILE],
        dataset=report.data.dataset,
        split=report.data.split,
        samples=report.data.n,
        seed=report.data.seed,
        output=report.output,
        dtype=report.dtype,
        num_params=report.params.total,
        upper_bound=report.structural.upper_bound,
        upper_bound_is="verified" if report.structural.verified else "formula",
        local_dimension=f"≥ {found.rank}, {found.rows} rows" if found.row_limited else found.rank,
        stable_rank=_rounded(report.effective.stable_rank),
        lambda_max=_rounded(report.curvature.lambda_max) if report.curvature else None,
    ).scalars()


def _quantization(records: CardRecords) -> dict[str, Any] | None:
    if records.config.quantization is not None:
        return packing_summary(records)
    if (report := records.quantization) is None:
        return None
    named = {f"bits_{entry.bits}": _rounded(entry.value) for entry in report.entries}
    rises = {group.name: entry.delta_loss for group in report.groups for entry in group.entries if entry.bits == 4}
    known = {name: rise for name, rise in rises.items() if rise is not None}
    return QuantizationSummary(
        version=report.version,
        weights_sha256=report.weights_sha256,
        report_sha256=records.hashes[QUANTIZATION_FILE],
        policy=report.policy if report.version == 1 else None,
        metric=report.metric,
        dataset=report.dataset,
        split=report.split,
        samples=report.n,
        reference=_rounded(report.reference),
        **{name: value for name, value in named.items() if name in QuantizationSummary.model_fields},
        most_sensitive_group=max(known, key=lambda name: known[name], default=None),
        spearman_4=next((_rounded(rank.spearman) for rank in report.ranking if rank.bits == 4), None),
    ).scalars()


def _model_index(records: CardRecords, rows: tuple[Row, ...]) -> dict[str, Any]:
    task = {"type": records.task, "name": records.task.replace("-", " ").capitalize()}
    results = []
    for row in rows:
        data = {"type": row.settings.get("hub_id") or row.dataset, "name": row.dataset, "split": row.split}
        metrics = [
            {"type": HUB_METRICS.get(name, name), "name": name, "value": _rounded(value)}
            for name, value in row.metrics.items()
        ]
        results.append({"task": dict(task), "dataset": data, "metrics": metrics})
    return {"name": records.name, "results": results}


def _rounded(value: float | None) -> Any:
    return None if value is None else float(f"{value:.6g}")


def _unique(names: list[Any]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))
