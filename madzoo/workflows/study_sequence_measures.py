"""What the study of quantized recurrences rounds, one thing at a time, and what that does to the logits.

Legend: n pictures, T lengths, K classes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.ops.scan_taps import tap_scans
from madzoo.quantization.activations import ActivationRounding
from madzoo.quantization.grid import Grid
from madzoo.quantization.plan import quantized_parameters
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.quantization.state_rounding import round_states, round_symmetric
from madzoo.quantization.tensor_kinds import kind_of

__all__ = [
    "AtLengths",
    "Condition",
    "compare",
    "conditions",
    "logits_of",
    "run_condition",
    "share_without_decay",
    "weight_parts",
]

Batch = tuple[Tensor, Tensor]
ScalesOf = Callable[[str], Sequence[Tensor]]

FEW_BITS = (8, 4)  # of states with other scales than each step's own per channel
RECURRENT = ("log_A_real", "A_imag", "A_log", "dt", "C", "x_proj")
# Kinds of parameters, in the words of madzoo.quantization.plan, that the page gives one row.
PROJECTIONS = ("in_proj", "out_proj", "conv", "linear", "embed", "head", "x_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Names one thing that is rounded: what, which of its elements share a scale, and to how many bits.

    Attributes:
        part: a part of :func:`weight_parts`, or ``"inputs"``, ``"scan_inputs"``, ``"factor"`` (exp(dt A)), ``"state"``.
        share: of weights ``"row"`` or ``"tensor"``; of a state see :mod:`madzoo.quantization.state_rounding`, with
            ``"fixed "`` before it where calibration pictures fix the scales; else what there is.
        bits: of each element.
    """

    part: str
    share: str
    bits: int


class AtLengths(nn.Module):
    """Shows a :class:`PixelClassifier` as a module whose output is the logits at several lengths, [B, T, K]."""

    def __init__(self, model: nn.Module, lengths: Sequence[int]) -> None:
        super().__init__()
        self.model, self.lengths = model, tuple(lengths)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        read: Any = self.model
        return read.logits_after(x[:, : max(self.lengths)], self.lengths)


def weight_parts(model: nn.Module) -> dict[str, list[str]]:
    """Sorts the parameters by what the study rounds together; ``"all"`` is every one of them."""
    parts: dict[str, list[str]] = {"all": []}
    for name, p in quantized_parameters(model).items():
        kind, last = kind_of(name, p), name.rsplit(".", 1)[-1]
        part = last if kind == "A" else "projections" if kind in PROJECTIONS else kind
        part = "conv1d" if ".conv1d." in name else "x_proj" if kind == "x_proj" else part
        parts["all"].append(name)
        if part != "vector":
            parts.setdefault(part, []).append(name)
    return parts


def conditions(model: nn.Module, bits: Sequence[int]) -> Iterator[Condition]:
    """Yields everything the study measures of a network, what its questions need most first."""
    shares = _weight_shares(model)
    recurrent = [part for part in shares if part in RECURRENT]
    first = [(part, shares[part][0]) for part in (*recurrent, "projections", "all")]
    second = [("scan_inputs", "tensor"), ("inputs", "tensor"), *((part, "tensor") for part in recurrent)]
    others = [(part, share) for part, found in shares.items() for share in found]
    for part, share in dict.fromkeys([("state", "channel"), ("factor", "tensor"), *first, *second]):
        yield from (Condition(part=part, share=share, bits=b) for b in bits)
    for share in ("fixed channel", "tensor"):
        yield from (Condition(part="state", share=share, bits=b) for b in bits if b in FEW_BITS)
    for part, share in [pair for pair in others if pair not in {*first, *second}]:
        yield from (Condition(part=part, share=share, bits=b) for b in bits)


def _weight_shares(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What may share a scale, part by part: a part of vectors has no rows."""
    parameters = dict(model.named_parameters())
    return {
        part: ("row", "tensor") if any(parameters[name].ndim > 1 for name in names) else ("tensor",)
        for part, names in weight_parts(model).items()
    }


@torch.no_grad()
def logits_of(model: nn.Module, batches: Sequence[Batch], lengths: Sequence[int]) -> Tensor:
    """Returns the logits after so many pixels, float64 [n, T, K]."""
    reader = AtLengths(model, lengths)
    return torch.cat([reader(x) for x, _ in batches]).double()


@torch.no_grad()
def run_condition(
    model: nn.Module, condition: Condition, batches: Sequence[Batch], lengths: Sequence[int], scales_of: ScalesOf
) -> Tensor:
    """Returns the logits with one thing rounded, float64 [n, T, K].

    Args:
        model: in evaluation mode; it is not changed.
        condition: what is rounded.
        batches: pictures.
        lengths: numbers of pixels.
        scales_of: gives the fixed scales of states, by what shares one.

    Cost: one pass over the pictures; for a state or factor, with Python's loop over the steps.
    """
    reader = AtLengths(copy.deepcopy(model), lengths)
    with _rounding(reader, condition, scales_of):
        return torch.cat([reader(x) for x, _ in batches]).double()


@torch.no_grad()
def share_without_decay(model: nn.Module, x: Tensor, bits: Sequence[int]) -> dict[str, float]:
    """Returns which share of the factors exp(dt A) is at least 1 in absolute value once rounded, by bits.

    Such a state forgets nothing; above 1 it grows. Every factor of an unrounded network is below 1.

    Shapes:
        x: pixels [B, L].
    """
    counts, total = dict.fromkeys(bits, 0), 0

    def look(a: Tensor) -> Tensor:
        nonlocal total
        total += a.numel()
        for b in bits:
            counts[b] += int((_round_factor(a, bits=b).abs() >= 1).sum())
        return a

    with tap_scans(factor=look):
        model(x)
    return {str(b): float(f"{count / total:.3g}") for b, count in counts.items()}


def compare(exact: Tensor, rounded: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compares logits at each length: accuracy, its paired drop and standard error, and the distance of the logits.

    Logits that are not finite count as a wrong answer, and their distance is None.

    Shapes:
        logits [n, T, K], labels [n] -> lists of T.
    """
    finite = rounded.isfinite().all(-1)
    right = (rounded.argmax(-1) == labels[:, None]) & finite
    drop = (exact.argmax(-1) == labels[:, None]).double() - right.double()
    distance = (rounded - exact).square().sum((0, 2)).sqrt() / exact.square().sum((0, 2)).sqrt()
    return {
        "top1": _plain(right.double().mean(0)),
        "drop": _plain(drop.mean(0)),
        "drop_error": _plain(drop.std(0) / len(labels) ** 0.5),
        "distance": _plain(distance),
    }


def _plain(values: Tensor) -> list[float | None]:
    return [float(f"{value:.4g}") if abs(value) < float("inf") else None for value in values.tolist()]


def _rounding(reader: AtLengths, condition: Condition, scales_of: ScalesOf) -> AbstractContextManager[Any]:
    part, share, bits = condition.part, condition.share, condition.bits
    special: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "inputs": lambda: ActivationRounding(reader, Grid(bits=bits, axis=None)),
        "scan_inputs": lambda: tap_scans(inputs=partial(_round_sequence, bits=bits)),
        "factor": lambda: tap_scans(factor=partial(_round_factor, bits=bits)),
        "state": lambda: _state(reader, share, bits, scales_of),
    }
    if part in special:
        return special[part]()
    plan = {name: Grid(bits=bits, axis=_axis(share, p)) for name, p in _planned(reader.model, part).items()}
    load_quantized(reader.model, quantize_weights(reader.model, plan))
    return nullcontext()


def _planned(model: nn.Module, part: str) -> dict[str, nn.Parameter]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in weight_parts(model)[part]}


def _axis(share: str, p: Tensor) -> int | None:
    return 0 if share == "row" and p.ndim > 1 else None


def _state(reader: AtLengths, share: str, bits: int, scales_of: ScalesOf) -> AbstractContextManager[None]:
    fixed, kept = share.startswith("fixed "), share.removeprefix("fixed ")
    return round_states(reader, bits, share=kept, scales=scales_of(kept) if fixed else None)


def _round_sequence(name: str, x: Tensor, *, bits: int) -> Tensor:
    # One scale for each sequence of a sample: what a batch holds beside it changes nothing.
    return round_symmetric(x, x.abs().amax(tuple(range(1, x.ndim)), keepdim=True), bits)


def _round_factor(a: Tensor, *, bits: int) -> Tensor:
    return round_symmetric(a, torch.ones((), dtype=a.real.dtype), bits)
