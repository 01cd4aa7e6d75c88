"""Which part of a recurrence is fragile, and how that grows with length: state, A and dt rounded one at a time."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError
from madzoo.quantization.plan import quantized_parameters, weight_grid
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.quantization.scores import Batch, Metric, find_metric, mean_or_none, score, standard_error
from madzoo.quantization.state_rounding import calibrate_states, round_states
from madzoo.quantization.tensor_kinds import kind_of

__all__ = ["STATE_PARTS", "StateEntry", "StateSensitivity", "first_steps", "state_sensitivity"]

STATE_PARTS = ("state", "A", "dt")
Shorten = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateEntry:
    """States the metric with one part rounded, on sequences of one length.

    Attributes:
        part: one of :data:`STATE_PARTS`.
        bits: of it; everything else is exact.
        length: steps of the sequences; None: as they are.
        value: the metric; None where the answers are not finite.
        drop: how much worse than the unrounded model on the same sequences.
        drop_standard_error: of the drop, from the paired difference per sample; None where samples overlap.
    """

    part: str
    bits: int
    length: int | None
    value: float | None
    drop: float | None
    drop_standard_error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSensitivity:
    """States what a metric loses when one part of the recurrence is rounded.

    Attributes:
        metric, higher_is_better: what was measured, as a mean over ``n`` samples.
        references: the unrounded model's metric at each length.
        share: which entries of a state share a scale, see :func:`round_states`.
        calibrated: whether state scales were fixed beforehand; otherwise they are each step's own.
        entries: one per length, part and bit width.
    """

    metric: str
    higher_is_better: bool
    n: int
    lengths: tuple[int | None, ...]
    references: tuple[float, ...]
    share: str
    calibrated: bool
    entries: tuple[StateEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        lists = {"lengths": list(self.lengths), "references": list(self.references)}
        return asdict(self) | lists | {"entries": [asdict(entry) for entry in self.entries]}


def first_steps(x: Tensor, length: int) -> Tensor:
    """Returns the first steps of sequences whose axis 1 is time.

    Raises:
        DataError: when they are shorter.
    """
    if x.ndim < 2 or not 0 < length <= x.shape[1]:
        raise DataError("the sequences are shorter than that.", asked=f"{length} steps", looked=tuple(x.shape))
    return x[:, :length]


def state_sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    bits: Sequence[int] = (8, 6, 4, 3, 2),
    lengths: Sequence[int] | None = None,
    metric: Metric | str,
    parts: Sequence[str] = STATE_PARTS,
    share: str = "channel",
    calibration: Iterable[Batch] | None = None,
    shorten: Shorten = first_steps,
) -> StateSensitivity:
    """Measures a metric with the state alone, A alone and dt alone rounded, on shorter and longer sequences.

    A and dt are the parameters of these kinds (:func:`madzoo.quantization.tensor_kinds.kind_of`), one symmetric scale
    per row.
    A model that never saw short sequences is bad on them also unrounded: each drop is against the unrounded model on
    the same sequences, and the references say how good that is.

    Args:
        model: any module whose scans can be tapped; it is not changed.
        batches: ``(sequences, targets)``; kept in memory.
        bits: of each part.
        lengths: steps to keep; None keeps all.
        metric: a :class:`Metric` or the name of one.
        parts: which of :data:`STATE_PARTS` are rounded, each alone.
        share: see :func:`round_states`.
        calibration: batches that fix the state's scales beforehand, of full length; None: each step has its own.
        shorten: ``(sequences, steps) -> sequences``; by default the first steps along axis 1.

    Raises:
        ConfigError: on an unknown part or metric, other bits, or a part that the model has no parameter of.
        BackendError: when the model's scans cannot be tapped.
        DataError: when there is no batch, the unrounded metric is not finite, or the state is asked for of a model
            that runs no scan.

    Cost: per length, part and bit width one pass over the batches; for the state with Python's loop over the steps.

    Source: the questions of arXiv 2406.09477 and 2506.12480, asked part by part.
    """
    metric, batches, model = find_metric(metric), list(batches), copy.deepcopy(model).eval()
    named = {part: _names(model, part) for part in parts}
    scales = None if calibration is None else calibrate_states(model, calibration, share=share)
    entries, references, n = list[StateEntry](), list[float](), 0
    for length in [None] if lengths is None else lengths:
        short = batches if length is None else [(shorten(x, length), y) for x, y in batches]
        exact = score(model, short, metric=metric, loss_fn=None).metric
        n = exact.numel()
        if n == 0 or not exact.isfinite().all():
            raise DataError("the unrounded model has no finite score.", asked=metric.name, resolved=f"{n} samples")
        references.append(float(exact.mean()))
        for part, b, scores in _each(model, short, named, bits, metric=metric, share=share, scales=scales):
            loss = exact - scores if metric.higher_is_better else scores - exact
            error = standard_error(loss, independent=metric.independent)
            value, drop = mean_or_none(scores), mean_or_none(loss)
            entries.append(
                StateEntry(part=part, bits=b, length=length, value=value, drop=drop, drop_standard_error=error)
            )
    return StateSensitivity(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        n=n,
        lengths=(None,) if lengths is None else tuple(lengths),
        references=tuple(references),
        share=share,
        calibrated=scales is not None,
        entries=tuple(entries),
    )


def _each(
    model: nn.Module,
    batches: list[Batch],
    named: dict[str, list[str]],
    bits: Sequence[int],
    *,
    metric: Metric,
    share: str,
    scales: list[Tensor] | None,
) -> Iterator[tuple[str, int, Tensor]]:
    for part, names in named.items():
        for b in bits:
            twin, rounding = model, nullcontext()
            if part == "state":
                rounding = round_states(model, b, share=share, scales=scales)
            else:
                twin = copy.deepcopy(model)
                parameters = dict(twin.named_parameters())
                load_quantized(twin, quantize_weights(twin, {name: weight_grid(parameters[name], b) for name in names}))
            with rounding:
                yield part, b, score(twin, batches, metric=metric, loss_fn=None).metric


def _names(model: nn.Module, part: str) -> list[str]:
    if part not in STATE_PARTS:
        raise ConfigError(f"a recurrence has no part {part!r}.", asked=part, looked=", ".join(STATE_PARTS))
    names = [name for name, p in quantized_parameters(model).items() if kind_of(name, p) == part]
    if part != "state" and not names:
        raise ConfigError("the model has no parameter of this kind.", asked=part, resolved=type(model).__name__)
    return names
