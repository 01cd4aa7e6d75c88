"""How the values inside a network depend on each other, channel by channel: the records one forward pass leaves.

A value has channels along one axis. Linear maps and convolutions *write* the channels of their output and *read* those
of their input; norms read one value and write another; a few operations keep channels apart and respect a scale or a
shift of each (:class:`Edge`); all others *stop* both. :mod:`madzoo.geometry.flow_trace` fills the records.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from madzoo.gauges import Slices
from madzoo.geometry.heads import AttentionCore
from madzoo.symmetry import Parameters

__all__ = ["Edge", "Flow", "Norm", "Reader", "Value", "Writer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor of the forward pass: its channels lie along ``axis``, ``block`` elements each."""

    index: int
    axis: int
    width: int
    block: int
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """How a value comes from others.

    Attributes:
        kind: ``"same"`` (any linear operation on each channel alone), ``"homogeneous"`` (commutes with positive
            scales), ``"relu"`` (likewise, and zero or the identity), ``"add"``, ``"cat"`` (along another axis),
            ``"product"``, ``"power"``.
        power: the exponent of ``"power"``.
    """

    kind: str
    out: Value
    ins: tuple[Value, ...]
    power: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """A map or a constant that writes a value; ``weights`` by parameter name, the bias apart."""

    out: Value
    weights: dict[str, Slices]
    bias: str | None = None
    full: bool = True  # every output channel reads every input channel
    constant: bool = False  # the parameter itself is what is written

    @property
    def parameters(self) -> dict[str, Slices]:
        """All it is made of, the bias too."""
        return self.weights | ({self.bias: Slices()} if self.bias else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A map that reads a value.

    Attributes:
        weight, slices: the parameter and where the channels lie in it.
        rows: of the parameter, its outputs.
        bias: of the map.
        takes_shift: True where a shift of the value can move into the bias exactly.
        full: as of :class:`Writer`.
    """

    value: Value
    weight: str
    slices: Slices
    rows: int
    bias: str | None
    takes_shift: bool
    full: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """A norm over a batch (of each channel), or over the channels.

    Attributes:
        kind: ``"batch"``, ``"layer"`` or ``"rms"``.
        value, out: what it takes and makes.
        gain, bias: parameters by name.
        mean, deviation: recorded statistics; None where a batch norm takes those of the batch.
        variance: of the batch at other parameters.
    """

    kind: str
    value: Value
    out: Value
    gain: str | None
    bias: str | None
    eps: float
    mean: Tensor | None = None
    deviation: Tensor | None = None
    variance: Callable[[Parameters], Tensor] | None = None

    @property
    def takes_scale(self) -> bool:
        """True where gain and bias can make up for a scale of what the norm takes."""
        if self.kind != "batch" or self.gain is None:
            return False
        return self.variance is not None if self.mean is None else self.bias is not None

    @property
    def takes_shift(self) -> bool:
        """True where the bias can make up for a shift of what the norm takes, or the batch's mean does."""
        return self.kind == "batch" and (self.mean is None or (self.gain is not None and self.bias is not None))


@dataclass(kw_only=True, slots=True)
class Flow:
    """All that one forward pass showed."""

    edges: list[Edge] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    weight_norms: dict[str, str] = field(default_factory=dict)  # gain by direction
    signs: dict[int, Tensor] = field(default_factory=dict)  # by relu output: where its input is positive
    uses: dict[str, int] = field(default_factory=dict)
    consumed: Counter[int] = field(default_factory=Counter)  # how many functions took a value
    attentions: list[AttentionCore] = field(default_factory=list)
    output: Value | None = None
