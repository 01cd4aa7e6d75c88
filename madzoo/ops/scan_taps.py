"""Taps on scans: functions that see, and may change, what a scan reads, its factors, and its state after each step.

With a tap on factors or states a dispatcher runs its plain loop, where both exist one step at a time. What a loop calls
its state is

================== =============================== ==============================================================
operator           state h (axis 0 samples)        basis
================== =============================== ==============================================================
selective_scan     [B, D, N], of A's dtype         that of B and C
ssd                [B, H, P, N], real              that of B and C
diagonal_scan      [B, H, N], complex              ``h_t = z h_{t-1} + u_t``: B is folded into v = C B_bar
linear_scan        a without its last axis         that of b; for S5 ``b = B_bar u``
================== =============================== ==============================================================

So the S4D state of this package is the published one divided by B_bar, entry by entry. Rounding with one scale per
(channel, state) is blind to a positive factor of an entry, so to abs(B_bar); it is not blind to the phase of B_bar,
which turns the grid of real and imaginary parts. One scale per channel or per tensor also depends on the sizes of the
entries of B_bar beside each other.

What is stepped by hand (``ssd_step``, the ``step`` of layers) is not tapped.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from madzoo.errors import BackendError

__all__ = ["ScanTaps", "current_taps", "refuse_taps", "tap_scans", "untapped"]

TAPPED = "selective_scan, ssd, diagonal_scan, linear_scan"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanTaps:
    """Holds the functions of :func:`tap_scans`."""

    inputs: Callable[[str, Tensor], Tensor] | None = None
    factor: Callable[[Tensor], Tensor] | None = None
    state: Callable[[Tensor], Tensor] | None = None
    begin: Callable[[], object] | None = None

    @property
    def need_loop(self) -> bool:
        """Whether a factor or a state is asked for, which only the plain loop has."""
        return self.factor is not None or self.state is not None

    def start(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        """Announces a scan and returns what it is to read."""
        if self.begin is not None:
            self.begin()
        inputs = self.inputs
        return tuple(tensors.values() if inputs is None else (inputs(name, x) for name, x in tensors.items()))

    def after_step(self, h: Tensor) -> Tensor:
        """Returns the state that the scan goes on with."""
        return h if self.state is None else self.state(h)

    def before_step(self, a: Tensor) -> Tensor:
        """Returns the factor that the scan multiplies its state with."""
        return a if self.factor is None else self.factor(a)


_taps: ContextVar[ScanTaps | None] = ContextVar("scan_taps", default=None)
_open = 0  # contexts in the process; compilers can guard a number, and not a ContextVar


@contextmanager
def tap_scans(
    *,
    inputs: Callable[[str, Tensor], Tensor] | None = None,
    factor: Callable[[Tensor], Tensor] | None = None,
    state: Callable[[Tensor], Tensor] | None = None,
    begin: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Lets functions see, and change, what the scans of this thread read and remember.

    Each function returns the tensor that the scan goes on with: the same, or another of its shape and dtype. Of nested
    contexts the innermost holds. A backward pass that runs a scan again (activation checkpointing) must run inside.

    Args:
        inputs: ``(name, tensor) -> tensor``, once per scan for each of its sequences: ``"u"``, ``"delta"`` (the step
            sizes, after bias, softplus and limits), ``"B"`` and ``"C"``; of diagonal_scan ``"u"``, of linear_scan
            ``"b"``. The skip D reads the same u.
        factor: ``a -> a``, before each step, the factor of the state ``exp(dt A)``; of diagonal_scan once per scan.
        state: ``h -> h``, after each step; the output and the next step read what it returns.
        begin: called when a scan begins, before the rest: who counts its calls knows which scan of a model it is.

    Raises:
        BackendError: from an operator that cannot be tapped: delta_rule, trapezoidal_ssd, oscillator_scan, long_conv.

    Cost: without a tap one comparison per scan. With factor or state the plain loop, L steps of Python.

    Example:
        >>> import torch
        >>> from madzoo.ops import linear_scan
        >>> with tap_scans(state=torch.floor):
        ...     linear_scan(torch.tensor([0.5, 0.5, 0.5]), torch.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    with _set(ScanTaps(inputs=inputs, factor=factor, state=state, begin=begin)):
        yield


@contextmanager
def _set(taps: ScanTaps | None) -> Iterator[None]:
    global _open
    token = _taps.set(taps)
    _open += 1
    try:
        yield
    finally:
        _open -= 1
        _taps.reset(token)


def untapped() -> AbstractContextManager[None]:
    """Closes all taps for a while: for an operator that is computed by another, and has read its inputs."""
    return _set(None)


def current_taps() -> ScanTaps | None:
    """Returns the taps of this thread, or None."""
    return _taps.get() if _open else None


def refuse_taps(operator: str) -> None:
    """Stops an operator that has no plain loop to be tapped.

    Raises:
        BackendError: when taps are set.
    """
    if current_taps() is not None:
        raise BackendError(f"{operator} cannot be tapped.", asked=operator, looked=TAPPED, todo="leave tap_scans")
