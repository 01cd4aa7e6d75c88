"""The sensitivity report as a frozen record, JSON both ways: what a model loses when its weights are rounded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from madzoo.errors import ConfigError

__all__ = [
    "SCHEMA",
    "GroupEntry",
    "GroupSensitivity",
    "PredictionSample",
    "RankAgreement",
    "SensitivityEntry",
    "SensitivityReport",
]

SCHEMA = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityEntry:
    """States the metric and the loss with every weight at one bit width.

    Attributes:
        bits: of every weight.
        value: the metric; None where the rounded model's answers are not finite.
        drop: how much worse than the unrounded model, positive when worse whatever the metric's direction.
        drop_standard_error: of the drop, from the paired difference per sample; None where samples overlap.
        delta_loss, delta_loss_standard_error: mean loss less that of the unrounded model; None without a loss.
    """

    bits: int
    value: float | None
    drop: float | None
    drop_standard_error: float | None
    delta_loss: float | None = None
    delta_loss_standard_error: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupEntry:
    """States what rounding one group alone does at one bit width; to six digits.

    Attributes:
        bits: of the group's weights; all others stay.
        delta_loss, delta_metric: loss and metric less those of the unrounded model, each in its own direction.
        delta_loss_standard_error, delta_metric_standard_error: paired; None where samples overlap.
        predicted_quadratic, predicted_trace: of the change of the loss; see :class:`Predicted`. None where nothing
            was predicted.
        sqnr_db: signal to quantization noise, ``10 log10(sum w^2 / sum dw^2)``; None where rounding changes nothing,
            or all weights are 0.
    """

    bits: int
    delta_loss: float | None
    delta_loss_standard_error: float | None
    delta_metric: float | None
    delta_metric_standard_error: float | None
    predicted_quadratic: float | None
    predicted_trace: float | None
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSensitivity:
    """Holds one group of tensors: its name, its kind, its parameters (count and names), one entry per bit width."""

    name: str
    kind: str
    params: int
    tensors: tuple[str, ...]
    entries: tuple[GroupEntry, ...]

    def at(self, bits: int) -> GroupEntry | None:
        """Returns the entry of a bit width, None where it was not measured."""
        return next((entry for entry in self.entries if entry.bits == bits), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAgreement:
    """States Spearman's rank correlations over the groups at one bit width; None where fewer than three had numbers.

    Attributes:
        bits: the bit width.
        spearman, spearman_trace: of the predicted and the measured change of the loss, by each prediction.
        between_halves: of the measured change on every other sample with that on the rest: what the noise of this
            many samples leaves to any prediction.
    """

    bits: int
    spearman: float | None
    spearman_trace: float | None
    between_halves: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSample:
    """Says what the predictions were computed on.

    Attributes:
        split: of the same data set. n: samples of the gradient. curvature_n: of them, of the curvature.
        operator: the curvature, ``"ggn"`` or ``"hessian"``. probes: of its trace. dtype: of its products.
        sample_sha256: of the inputs.
        disjoint: whether none of them is among those the groups were measured on.
    """

    split: str | None
    n: int
    curvature_n: int
    operator: str
    probes: int
    dtype: str
    sample_sha256: str
    disjoint: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityReport:
    """States what a metric and a loss lose when weights of a network are rounded, all together and group by group.

    Attributes:
        metric, higher_is_better: what was measured.
        reference, reference_standard_error: the metric of the unrounded model; None where samples overlap.
        reference_loss: the mean loss of the unrounded model; None without a loss.
        n: number of samples.
        entries: one per bit width.
        group_n: number of samples of the groups, among or beside the n.
        groups: each floating parameter is in one.
        ranking: how predicted and measured order the groups, one per bit width; empty where nothing was predicted.
        prediction: the samples of the predictions.
        policy: how weights were rounded; every floating parameter is.
        tensors, num_weights: how many were rounded.
        sample_shape: of one input. sequence_length: tokens that a scan sees of it, where it was told.
        dtype: of the weights.
        dataset, split, seed: where the samples come from.
        data_fingerprint, weights_sha256: hashes of the files behind the data and the model.
        seconds, threads, torch_version: what the measurement cost, and with what.
        schema: version of this record.
    """

    metric: str
    higher_is_better: bool
    reference: float
    reference_standard_error: float | None
    reference_loss: float | None
    n: int
    entries: tuple[SensitivityEntry, ...]
    group_n: int
    groups: tuple[GroupSensitivity, ...]
    ranking: tuple[RankAgreement, ...]
    prediction: PredictionSample | None
    policy: str
    tensors: int
    num_weights: int
    sample_shape: tuple[int, ...]
    sequence_length: int | None
    dtype: str
    dataset: str | None
    split: str | None
    seed: int | None
    data_fingerprint: str | None
    weights_sha256: str | None
    seconds: float
    threads: int
    torch_version: str
    schema: int = SCHEMA

    def spearman(self, bits: int) -> float | None:
        """Returns the rank correlation of predicted and measured at a bit width, None where there is none."""
        return next((rank.spearman for rank in self.ranking if rank.bits == bits), None)

    def most_sensitive(self, bits: int) -> str | None:
        """Returns the group whose rounding raises the loss most at a bit width, None where no loss was measured."""
        rises = {group.name: entry.delta_loss for group in self.groups if (entry := group.at(bits))}
        known = {name: rise for name, rise in rises.items() if rise is not None}
        return max(known, key=lambda name: known[name], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SensitivityReport":
        """Builds from JSON values.

        Raises:
            ConfigError: on another schema, or a missing or unknown key.
        """
        if values.get("schema") != SCHEMA:
            raise ConfigError(
                "another quantization schema.",
                asked=values.get("schema"),
                looked=SCHEMA,
                todo="madzoo card NAME measures an older one anew; for a newer one upgrade madzoo",
            )
        try:
            return cls(**{**values, **_nested(values)})
        except (TypeError, KeyError) as error:
            names = [f.name for f in fields(cls)]
            raise ConfigError(f"not a sensitivity report: {error}.", asked=sorted(values), looked=names) from error


R = TypeVar("R")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    sample = values["prediction"]
    return {
        "entries": _each(SensitivityEntry, values["entries"]),
        "groups": tuple(_group(group) for group in values["groups"]),
        "ranking": _each(RankAgreement, values["ranking"]),
        "prediction": None if sample is None else PredictionSample(**sample),
        "sample_shape": tuple(values["sample_shape"]),
    }


def _group(values: Mapping[str, Any]) -> GroupSensitivity:
    nested = {"tensors": tuple(values["tensors"]), "entries": _each(GroupEntry, values["entries"])}
    return GroupSensitivity(**{**values, **nested})


def _each(kind: type[R], records: list[dict[str, Any]]) -> tuple[R, ...]:
    return tuple(kind(**record) for record in records)


def _plain(value: Any) -> Any:
    """Turns the tuples that ``asdict`` keeps into lists, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
