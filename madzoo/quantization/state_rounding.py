"""Rounding of what a recurrence remembers: the state of every scan on a symmetric grid, after each step.

B samples, C channels (axis 1 of a state), b bits, q = 2^(b-1) - 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, DataError, check_choice
from madzoo.ops.scan_taps import tap_scans

__all__ = ["SHARES", "calibrate_states", "round_states", "round_symmetric"]

# Which entries of one sample's state share a scale.
SHARES = ("tensor", "channel", "state")


@contextmanager
def round_states(
    model: nn.Module, bits: int, *, share: str = "channel", scales: Sequence[Tensor] | None = None
) -> Iterator[None]:
    """Rounds the state of every scan of a model after each step, ``h -> s clamp(round(h / s), -q, q)``.

    The output and the next step read the rounded state. A complex state is rounded as pairs of reals under one scale.
    See :mod:`madzoo.ops.scan_taps` for the basis of the states and for the operators without a tap.

    Args:
        model: its scans are counted from the start of each of its forward passes.
        bits: 2 to 8, or 16.
        share: which entries share a scale: all of a sample (``"tensor"``), those of a channel (``"channel"``), none
            (``"state"``, only with fixed scales: a scale of its own would leave each entry as it is).
        scales: one per scan, from :func:`calibrate_states`; None takes, at every step, the largest value of the
            entries that share.

    Raises:
        ConfigError: on other bits, an unknown share, ``"state"`` without scales; from the model, when it runs more
            scans than there are scales.
        DataError: at the end, when no scan ran: then nothing was rounded.

    Cost: L steps of Python per scan, see :func:`madzoo.ops.scan_taps.tap_scans`.
    """
    rounder = _Rounder(bits, share, scales)
    handle = model.register_forward_pre_hook(lambda module, inputs: rounder.restart())
    try:
        with tap_scans(state=rounder, begin=rounder.begin):
            yield
        rounder.check_ran(model)
    finally:
        handle.remove()


@torch.no_grad()
def calibrate_states(
    model: nn.Module, batches: Iterable[tuple[Tensor, Any]], *, share: str = "channel"
) -> list[Tensor]:
    """Returns the largest absolute value, over samples and steps, that each state of each scan takes.

    Args:
        model: run in the mode it is in; its scans come in one order.
        batches: ``(inputs, anything)``.
        share: see :func:`round_states`.

    Shapes:
        -> one per scan, that of its state with 1 for the axes that share.

    Raises:
        ConfigError: on an unknown share.
        DataError: when there is no batch, or no scan ran.

    Cost: one forward pass per batch, with the plain loops.
    """
    check_choice("share", share, list(SHARES))
    reaches: list[Tensor] = []
    place = _Place()

    def look(h: Tensor) -> Tensor:
        reach = _reach(h.detach(), share).amax(0, keepdim=True)
        if place.scan == len(reaches):
            reaches.append(reach)
        reaches[place.scan] = torch.maximum(reaches[place.scan], reach)
        return h

    for inputs, _ in batches:
        place.restart()
        with tap_scans(state=look, begin=place.begin):
            model(inputs)
    place.check_ran(model)
    return reaches


def round_symmetric(h: Tensor, reach: Tensor, bits: int) -> Tensor:
    """Rounds to the 2 q + 1 even levels from -reach to reach; zero stays zero; the gradient passes straight through.

    Shapes:
        h [...], real or complex, reach broadcast against it -> the shape and dtype of h.

    Example:
        >>> round_symmetric(torch.tensor([0.3, -0.8, 5.0]), torch.tensor(1.0), 2)
        tensor([ 0., -1.,  1.])
    """
    if h.is_complex():
        pairs = round_symmetric(torch.view_as_real(h), reach.unsqueeze(-1), bits)
        return torch.view_as_complex(pairs)
    highest = 2 ** (bits - 1) - 1
    scale = torch.where(reach > 0, reach, torch.ones_like(reach)) / highest
    rounded = (h.detach() / scale).round_().clamp_(-highest, highest).mul_(scale)
    return rounded + (h - h.detach()) if h.requires_grad else rounded


class _Place:
    """Counts the scans of a forward pass, and remembers whether there ever was one."""

    def __init__(self) -> None:
        self.scan, self.ran = -1, False

    def restart(self) -> None:
        self.scan = -1

    def begin(self) -> None:
        self.scan, self.ran = self.scan + 1, True

    def check_ran(self, model: nn.Module) -> None:
        if not self.ran:
            raise DataError("no scan ran, so there is no state.", asked=type(model).__name__)


class _Rounder(_Place):
    def __init__(self, bits: int, share: str, scales: Sequence[Tensor] | None) -> None:
        super().__init__()
        check_choice("share", share, list(SHARES))
        if isinstance(bits, bool) or bits not in (*range(2, 9), 16):
            raise ConfigError("a state is rounded to 2 to 8 or 16 bits.", asked=f"bits={bits!r}")
        if share == "state" and scales is None:
            raise ConfigError("a scale for each entry leaves it as it is.", asked=share, todo="scales=calibrate_states")
        self.bits, self.share, self.scales = bits, share, scales

    def __call__(self, h: Tensor) -> Tensor:
        if self.scales is None:
            return round_symmetric(h, _reach(h.detach(), self.share), self.bits)
        if self.scan >= len(self.scales):
            raise ConfigError("the model runs more scans than there are scales.", asked=self.scan + 1)
        return round_symmetric(h, self.scales[self.scan], self.bits)


def _reach(h: Tensor, share: str) -> Tensor:
    """The largest absolute real or imaginary part of the entries that share a scale, for each sample."""
    size = torch.maximum(h.real.abs(), h.imag.abs()) if h.is_complex() else h.abs()
    shared = {"tensor": range(1, h.ndim), "channel": range(2, h.ndim), "state": ()}[share]
    return size.amax(tuple(shared), keepdim=True) if len(shared) else size
