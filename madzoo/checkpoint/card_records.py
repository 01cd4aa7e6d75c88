"""What a card reads of its folder: config.json and three reports, their fields checked, their hashes compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from madzoo.checkpoint.card_sensitivity_record import Quantization, Record, Report
from madzoo.checkpoint.folder import CheckpointConfig, read_folder
from madzoo.checkpoint.packed import check_head
from madzoo.checkpoint.report_files import EVALUATION_FILE, GEOMETRY_FILE, QUANTIZATION_FILE
from madzoo.checkpoint.weights import sha256_of
from madzoo.errors import CheckpointError

__all__ = [
    "CardRecords",
    "Evaluation",
    "Geometry",
    "Quantization",
    "Row",
    "read_records",
]


class Row(Record):
    """A result row: the fields of :class:`madzoo.evaluation.ResultRow` that a card shows."""

    model: str
    weights_sha256: str | None
    dataset: str
    split: str
    n: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = Field(default_factory=dict)
    seed: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    configurations_tested: int | None = None


class Evaluation(Report):
    """``evaluation.json``: rows of these weights, of the same recipe under other seeds, and of ablations of it."""

    rows: tuple[Row, ...]
    other_seeds: tuple[Row, ...] = ()
    ablations: tuple[Row, ...] = ()


class Sample(Record):
    """The sample a geometry report was measured on."""

    dataset: str
    split: str
    n: int
    seed: int | None


class Count(Record):
    """Numbers of parameters."""

    total: int
    trainable: int


class Measured(Record):
    """The measured rank; see :class:`madzoo.geometry.LocalDimension`."""

    rank: int
    rows: int
    row_limited: bool
    sigma_max: float | None
    sigma_r: float | None
    sigma_next: float | None
    gap_decades: float | None
    rank_at: dict[str, int]
    rtol: float
    method: str


class LostItem(Record):
    """A symmetry and what it takes away."""

    name: str
    modules: int
    lost: int
    independent: bool
    on_data: bool


class Structural(Record):
    """The symmetry ledger; see :class:`madzoo.geometry.SymmetryLedger`."""

    lost: int
    upper_bound: int
    generators_checked: int
    max_relative_jvp: float
    verified: bool
    items: tuple[LostItem, ...]


class Inactive(Record):
    """ReLU units that do not bend on the sample."""

    dead_units: int
    always_active_units: int
    lost: int


class Effective(Record):
    """How evenly the sample's directions are used."""

    stable_rank: float
    participation_ratio: float
    entropy_rank: float


class Flatness(Record):
    """The curvature of the mean loss; see :class:`madzoo.geometry.Curvature`."""

    loss: float
    lambda_max: float
    lambda_max_residual: float
    trace: float
    trace_stderr: float | None
    probes: int
    noise_scale: float | None
    n: int


class Geometry(Report):
    """``geometry.json``."""

    version: Literal[2] = Field(alias="schema")  # type: ignore[assignment]
    output: str
    dtype: str
    data: Sample
    params: Count
    structural: Structural
    measured: Measured
    effective: Effective
    inactive: Inactive
    unexplained: int
    curvature: Flatness | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CardRecords:
    """Holds all that a card is rendered from.

    Attributes:
        path: the folder.
        config: its configuration.
        weights_sha256: of the weights, as config.json states it.
        evaluation, geometry, quantization: None where the file is absent.
        hashes: file name -> sha256 of the report files present.
        plots: names of PNG files beside the card.
    """

    path: Path
    config: CheckpointConfig
    weights_sha256: str
    evaluation: Evaluation | None
    geometry: Geometry | None
    quantization: Quantization | None
    hashes: dict[str, str]
    plots: frozenset[str]

    @property
    def name(self) -> str:
        """The model's full name."""
        return self.config.architecture

    @property
    def task(self) -> str:
        """``image-classification`` where the weights state an input size, else ``time-series-forecasting``."""
        is_image = self.config.pretrained_cfg.get("input_size") is not None
        return "image-classification" if is_image else "time-series-forecasting"


def read_records(folder: Path | str) -> CardRecords:
    """Reads a folder for its card and compares every hash in it.

    Raises:
        CheckpointError: when a file is missing or damaged, or a report is not about these weights.
    """
    checkpoint = read_folder(folder)
    present = {name: checkpoint.path / name for name in (EVALUATION_FILE, GEOMETRY_FILE, QUANTIZATION_FILE)}
    present = {name: path for name, path in present.items() if path.is_file()}
    found = {"model.safetensors": sha256_of(checkpoint.weights_path)}
    records = CardRecords(
        path=checkpoint.path,
        config=checkpoint.config,
        weights_sha256=found["model.safetensors"],
        evaluation=_read(present.get(EVALUATION_FILE), Evaluation),
        geometry=_read(present.get(GEOMETRY_FILE), Geometry),
        quantization=_read(present.get(QUANTIZATION_FILE), Quantization),
        hashes={name: sha256_of(path) for name, path in present.items()},
        plots=frozenset(path.name for path in checkpoint.path.glob("*.png")),
    )
    _check_hashes(records, checkpoint.sha256)
    check_head(checkpoint.config.quantization, checkpoint.weights_path)
    return records


def _check_hashes(records: CardRecords, stated: str | None) -> None:
    told = {"config.json": stated}
    for name, record in (
        (EVALUATION_FILE, records.evaluation),
        (GEOMETRY_FILE, records.geometry),
        (QUANTIZATION_FILE, records.quantization),
    ):
        if record is not None:
            told[name] = record.weights_sha256
    if records.evaluation is not None:
        told |= {f"a row of {EVALUATION_FILE}": row.weights_sha256 for row in records.evaluation.rows}
    wrong = {name: sha256 for name, sha256 in told.items() if sha256 != records.weights_sha256}
    if wrong:
        raise CheckpointError(
            f"the hashes in {records.path} disagree with its weights.",
            asked=f"the card of {records.name}",
            resolved=f"model.safetensors is {records.weights_sha256}",
            looked="; ".join(f"{name} is about {sha256}" for name, sha256 in wrong.items()),
            todo=f"madzoo evaluate and madzoo card on {records.path}, or restore its weights",
        )


R = TypeVar("R", bound=Report)


def _read(path: Path | None, kind: type[R]) -> R | None:
    if path is None:
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path} does not fit its schema: {where or 'the file'}: {first['msg']}.",
            asked=f"a {kind.__name__.lower()} report",
            todo="remove the file and run madzoo card again to recompute it",
        ) from error
