"""What a checkpoint folder says of a model beside its scores: size, local dimension, what rounding costs."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from madzoo.checkpoint.card_records import Geometry, Quantization, Report
from madzoo.checkpoint.folder import WEIGHTS_FILE, Checkpoint, read_folder
from madzoo.checkpoint.report_files import GEOMETRY_FILE, QUANTIZATION_FILE
from madzoo.errors import DataError, MadzooError
from madzoo.factory import create_model
from madzoo.workflows.leaderboard_latency import Latency
from madzoo.workflows.leaderboard_rows import Source

__all__ = ["Drop", "ModelFacts", "facts_of", "family_of", "parameters_of"]

FAMILY = re.compile(r"(.+?)_(?:pico|nano|micro|mini|tiny|small|base|large|huge|[tsblx]\d?|l\d|v\d)(?:_|\.|$)")
PLAIN = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_-]+)?")
R = TypeVar("R", bound=Report)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """States what rounding every weight to few bits costs; positive is worse.

    Attributes:
        metric: what was measured, on ``n`` samples of ``dataset``, part ``split``.
        points: percentage points lost, of a fraction such as top-1.
        percent: growth of an error, in per cent of it.
        standard_error: in the same unit, None where none is known.
    """

    metric: str
    dataset: str
    split: str
    n: int
    points: float | None = None
    percent: float | None = None
    standard_error: float | None = None

    @property
    def value(self) -> float | None:
        """The cost in its own unit."""
        return self.percent if self.points is None else self.points


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """States what is known of one set of weights.

    Attributes:
        name, weights_sha256: which weights these are.
        source: where they were found, in words.
        folder: their checkpoint folder, or None.
        num_params, size_bytes: of the model, and of its weight file.
        rank, rows, row_limited: the measured local dimension; a lower bound where the sample limited it.
        upper_bound: what symmetries leave of the parameters.
        drops: bits -> :class:`Drop`.
        packed_bits: of weights that are stored packed.
        trained_on: names of data sets, joined by ``+``.
        licence: of the weights.
        latency: see :class:`Latency`.
    """

    name: str
    weights_sha256: str | None = None
    source: str = ""
    folder: Path | None = field(default=None, compare=False)
    num_params: int | None = None
    size_bytes: int | None = None
    rank: int | None = None
    rows: int | None = None
    row_limited: bool | None = None
    upper_bound: int | None = None
    drops: dict[int, Drop] = field(default_factory=dict)
    packed_bits: int | None = None
    trained_on: str | None = None
    licence: str | None = None
    latency: Latency | None = None


def facts_of(source: Source, *, latency: Latency | None = None) -> ModelFacts:
    """Reads a checkpoint folder's reports; those of other weights than the folder's are left out.

    Raises:
        CheckpointError: when ``config.json`` is damaged.
        DataError: when a report does not fit its schema.
    """
    assert source.folder is not None  # callers ask first
    assert source.name is not None
    checkpoint = read_folder(source.folder)
    cfg = checkpoint.config.pretrained_cfg
    return ModelFacts(
        name=source.name,
        weights_sha256=checkpoint.sha256,
        source=source.label,
        folder=source.folder,
        packed_bits=(checkpoint.config.quantization or {}).get("bits"),
        trained_on=cfg.get("dataset"),
        licence=cfg.get("license"),
        latency=latency,
        **_size(checkpoint),
        **_geometry(checkpoint),
        **_drops(checkpoint),
    )


def family_of(name: str) -> str:
    """Returns what stands before the size in a model's name.

    Example:
        >>> family_of("patch_s4d_nano_512_96.etth1"), family_of("linear_512_96")
        ('patch_s4d', 'linear')
    """
    match = FAMILY.match(name)
    return match[1] if match else re.split(r"_\d|\.", name, maxsplit=1)[0]


def parameters_of(name: str) -> int | None:
    """Counts the parameters of a registered name without making them.

    None for any other name, and for a model that cannot be built without memory: the page then shows no number.
    """
    if not PLAIN.fullmatch(name):
        return None
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in create_model(name).parameters())
    except (MadzooError, NotImplementedError):
        return None


def _size(checkpoint: Checkpoint) -> dict[str, Any]:
    file = checkpoint.path / WEIGHTS_FILE
    return {"size_bytes": file.stat().st_size if file.is_file() else None}


def _geometry(checkpoint: Checkpoint) -> dict[str, Any]:
    found = _report(checkpoint, GEOMETRY_FILE, Geometry)
    if found is None:
        is_plain = not checkpoint.config.model_args
        return {"num_params": parameters_of(checkpoint.config.architecture) if is_plain else None}
    measured = found.measured
    bound = found.structural.upper_bound if found.structural.verified else None
    return {
        "num_params": found.params.total,
        "rank": measured.rank,
        "rows": measured.rows,
        "row_limited": measured.row_limited,
        "upper_bound": bound,
    }


def _drops(checkpoint: Checkpoint) -> dict[str, Any]:
    found = _report(checkpoint, QUANTIZATION_FILE, Quantization)
    if found is None or not (found.higher_is_better or found.reference):
        return {}
    scale = 100.0 if found.higher_is_better else 100.0 / found.reference
    drops = {}
    for entry in found.entries:
        if entry.drop is not None:
            cost, error = scale * entry.drop, entry.drop_standard_error
            drops[entry.bits] = Drop(
                metric=found.metric,
                dataset=found.dataset,
                split=found.split,
                n=found.n,
                points=cost if found.higher_is_better else None,
                percent=None if found.higher_is_better else cost,
                standard_error=None if error is None else scale * error,
            )
    return {"drops": drops}


def _report(checkpoint: Checkpoint, name: str, kind: type[R]) -> R | None:
    file = checkpoint.path / name
    if not file.is_file():
        return None
    try:
        found = kind.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} does not fit its schema: {_first(error)}.", asked=file) from error
    return found if found.weights_sha256 == checkpoint.sha256 else None


def _first(error: ValueError) -> str:
    details = getattr(error, "errors", list)()
    return json.dumps(details[0]["loc"]) + " " + details[0]["msg"] if details else str(error)
