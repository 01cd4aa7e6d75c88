"""What a card reads of quantization.json, and how every report is read: strictly, without NaN."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Quantization", "Record", "Report", "RoundedGroup"]


class Record(BaseModel):
    """Reads strictly typed JSON without NaN; fields that a card does not show are let pass."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")


class Report(Record):
    """A report file: which schema it follows, and which weights it is about."""

    version: Literal[1] = Field(alias="schema")
    weights_sha256: str


class Rounded(Record):
    """The metric and the loss with all weights at one bit width."""

    bits: int
    value: float | None
    drop: float | None
    drop_standard_error: float | None
    delta_loss: float | None = None
    delta_loss_standard_error: float | None = None


class RoundedGroup(Record):
    """What rounding one group alone does at one width: :class:`madzoo.quantization.sensitivity_record.GroupEntry`."""

    bits: int
    delta_loss: float | None
    delta_loss_standard_error: float | None
    predicted_quadratic: float | None
    sqnr_db: float | None


class TensorGroup(Record):
    """A group of tensors that were rounded together."""

    name: str
    params: int
    entries: tuple[RoundedGroup, ...]


class Ranking(Record):
    """Rank correlations over the groups at one bit width."""

    bits: int
    spearman: float | None
    spearman_trace: float | None
    between_halves: float | None


class PredictionSample(Record):
    """The samples by which the groups' losses were predicted."""

    split: str | None
    n: int
    curvature_n: int
    operator: str


class Quantization(Report):
    """``quantization.json``; of schema 1, which has no groups, too: older cards stay as they are."""

    version: Literal[1, 2] = Field(alias="schema")  # type: ignore[assignment]
    metric: str
    higher_is_better: bool
    reference: float
    reference_loss: float | None = None
    n: int
    entries: tuple[Rounded, ...]
    group_n: int = 0
    groups: tuple[TensorGroup, ...] = ()
    ranking: tuple[Ranking, ...] = ()
    prediction: PredictionSample | None = None
    policy: str
    tensors: int
    dataset: str
    split: str
    seed: int | None
