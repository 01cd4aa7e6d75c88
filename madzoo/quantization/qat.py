"""Quantization-aware training: a model trained while its parameters show their levels, for any training loop.

A loop sees an ordinary module and calls :meth:`Qat.on_step` after each step; what an average keeps are latents.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import CheckpointError, ConfigError
from madzoo.quantization.fake_quant import attach, detach, quantizers
from madzoo.quantization.oscillation import MOMENTUM, THRESHOLD, CodeTrace, OscillationRecord
from madzoo.quantization.plan import kind_of
from madzoo.quantization.prox import ProxSchedule, prox
from madzoo.quantization.quantized import Plan, QuantizedTensor
from madzoo.quantization.straight_through import find_estimator

__all__ = ["Qat", "QatRecord", "prepare_qat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QatRecord:
    """States how a model was trained on its grids, and how still its weights were at the end.

    Attributes:
        estimator, observer, scale_rule: see :func:`prepare_qat`.
        bits: of the planned parameters, the different ones of each kind (:data:`madzoo.quantization.plan.ROLES`).
        elements: real numbers on grids.
        steps: optimizer steps. track_every: steps between two looks at the codes.
        oscillating_fraction, mean_frequency: see :class:`madzoo.quantization.oscillation.OscillationRecord`; of the
            weights that were trained, since this run's start.
        latent_distance: mean distance of latents from their levels, in units of the scale, of the weights kept.
        freeze_above: frequency above which weights were frozen, or None. frozen_fraction: of all elements.
    """

    estimator: str
    observer: str
    scale_rule: str
    bits: Mapping[str, tuple[int, ...]]
    elements: int
    steps: int
    track_every: int
    oscillating_fraction: float
    mean_frequency: float
    latent_distance: float
    freeze_above: float | None
    frozen_fraction: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self) | {"bits": {kind: list(bits) for kind, bits in self.bits.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QatRecord":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            bits = {kind: tuple(found) for kind, found in values["bits"].items()}
            return cls(**{**values, "bits": bits})
        except (TypeError, KeyError) as error:
            raise ConfigError("this is no record of a training.", asked=sorted(values), looked=str(error)) from error


class Qat:
    """Accompanies the training of a model whose parameters show their levels; made by :func:`prepare_qat`.

    What it knows of oscillations is not part of the model's state: a run that is resumed counts anew from there.
    Frozen codes and learned scales are part of it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        freeze_above: float | None,
        track_every: int,
        momentum: float,
        schedule: ProxSchedule | None,
    ) -> None:
        self.model, self.freeze_above, self.track_every, self.schedule = model, freeze_above, track_every, schedule
        self._momentum, self._steps = momentum, 0
        self._held = quantizers(model)
        self._traces: dict[str, CodeTrace] = {}
        self._done: QatRecord | None = None
        self._last: OscillationRecord | None = None
        self._look()

    @torch.no_grad()
    def on_step(self, step: int, loss: float) -> None:
        """Follows one optimizer step: pulls weights where nothing rounds them, looks at the codes, freezes.

        Args:
            step: steps done, counted from 1.
            loss: of the step; not used, training loops hand it over.
        """
        self._steps = step
        if self.schedule is not None:
            self._pull(self.schedule.pull(step))
        if step % self.track_every == 0:
            self._look()
            if self.freeze_above is not None:
                self._freeze(self.freeze_above)

    def finish(self, state: Mapping[str, Tensor] | None = None) -> dict[str, QuantizedTensor]:
        """Ends the training: the model becomes a plain one that stands on its levels.

        Args:
            state: the weights to keep, a state dict of the model as it was trained (an average of them is one); None
                for the present ones.

        Returns:
            The codes by parameter name.

        Raises:
            ConfigError: when it was finished before.
            CheckpointError: when the state is not one of the model as it was trained.
        """
        if self._done is not None:
            raise ConfigError("this training is finished.", asked="finish", todo="prepare_qat(model, plan) anew")
        if state is not None:
            self._load(state)
        self._last, self._done = self.oscillation(), self.record()
        return detach(self.model)

    def oscillation(self) -> OscillationRecord:
        """Returns how restless the codes are; after :meth:`finish`, how they were then."""
        if self._last is not None:
            return self._last
        distances = {name: held.rule.distance(held.latent) for name, held in self._held.items()}
        return OscillationRecord.measure(self._traces, distances, threshold=THRESHOLD)

    def record(self) -> QatRecord:
        """Returns how the training went; after :meth:`finish`, as it was then."""
        if self._done is not None:
            return self._done
        restless = self.oscillation()
        any_rule = next(held.rule for held in self._held.values())
        frozen = sum(int(h.rule.frozen.sum()) for h in self._held.values() if h.rule.frozen is not None)
        elements = sum(tensor.count for tensor in restless.tensors.values())
        return QatRecord(
            estimator=any_rule.estimator.name,
            observer=any_rule.observer,
            scale_rule=any_rule.scale_rule,
            bits=self._bits(),
            elements=elements,
            steps=self._steps,
            track_every=self.track_every,
            oscillating_fraction=restless.fraction,
            mean_frequency=restless.frequency,
            latent_distance=restless.distance,
            freeze_above=self.freeze_above,
            frozen_fraction=frozen / max(elements, 1),
        )

    def _look(self) -> None:
        for name, held in self._held.items():
            codes = held.rule.quantized(held.latent).codes
            if name in self._traces:
                self._traces[name].update(codes)
            else:
                self._traces[name] = CodeTrace(codes, momentum=self._momentum)

    def _freeze(self, above: float) -> None:
        for name, held in self._held.items():
            held.rule.freeze(*self._traces[name].settled(above))

    def _pull(self, pull: float) -> None:
        for held in self._held.values():
            real = torch.view_as_real(held.latent) if held.latent.is_complex() else held.latent
            scale, zero = held.rule.scales(held.latent)
            real.copy_(prox(real, held.rule.grid, scale, zero, pull=pull))

    def _bits(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, set[int]] = defaultdict(set)
        for name, held in self._held.items():
            found[kind_of(name, held.latent)].add(held.rule.grid.bits)
        return {kind: tuple(sorted(bits)) for kind, bits in sorted(found.items())}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        try:
            self.model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(
                "the state is not one of the model as it was trained.",
                asked="finish",
                looked=str(error),
                todo="the state dict of the model between prepare_qat and finish",
            ) from error


def prepare_qat(
    model: nn.Module,
    plan: Plan,
    *,
    estimator: str = "lsq",
    observer: str = "mse",
    scale_rule: str | None = None,
    freeze_above: float | None = None,
    track_every: int = 1,
    momentum: float = MOMENTUM,
    total_steps: int | None = None,
    prox_strength: float | None = None,
) -> Qat:
    """Makes a model ready to be trained on its grids, in place: its planned parameters show their levels.

    Train it with any loop that calls ``on_step(step, loss)`` after each optimizer step, without weight decay (the
    parameters have other names now, so a list of what is not to decay does not find them), then call
    :meth:`Qat.finish`. An averaged model averages latents and scales, as they are before ``on_step``; its levels are
    those of the averages.

    Args:
        model: any module.
        plan: the grids, by parameter name.
        estimator: one of :data:`madzoo.quantization.straight_through.ESTIMATORS`.
        observer: of the scales, at the start.
        scale_rule: see :class:`madzoo.quantization.fake_quant.FakeQuantize`.
        freeze_above: weights whose codes oscillate more often than this are fixed at their mean code, rounded; None:
            never. A single oscillation adds ``momentum`` to the frequency, which then fades.
        track_every: steps between two looks at the codes; frequencies count looks.
        momentum: of the frequencies.
        total_steps: of the training; ``"prox_quant"`` needs it, and it alone.
        prox_strength: see :class:`madzoo.quantization.prox.ProxSchedule`; of ``"prox_quant"`` alone.

    Raises:
        ConfigError: on an empty plan, settings that do not go together, or a model that is prepared already; see
            also :func:`madzoo.quantization.fake_quant.attach`.

    Source: arXiv 2203.11086 (freezing), and that of the estimator.

    Example:
        >>> model = nn.Linear(4, 2, bias=False)
        >>> from madzoo.quantization.plan import uniform_plan
        >>> qat = prepare_qat(model, uniform_plan(model, 3))
        >>> qat.on_step(1, 0.0)  # after an optimizer step
        >>> sorted(qat.finish()), qat.record().bits
        (['weight'], {'linear': (3,)})
    """
    if not plan:
        raise ConfigError("a plan without a parameter trains nothing on a grid.", asked="an empty plan")
    if present := quantizers(model):
        raise ConfigError("the model has quantizers already.", asked=", ".join(present), todo="restore(model) first")
    if track_every < 1:
        raise ConfigError("codes are looked at every step or every few.", asked=f"track_every={track_every}")
    if not 0 < momentum <= 1:
        raise ConfigError("the momentum of an average is above 0 and at most 1.", asked=f"momentum={momentum}")
    schedule = _schedule(estimator, total_steps, prox_strength)
    freezable = freeze_above is not None
    attach(model, plan, estimator=estimator, observer=observer, scale_rule=scale_rule, freezable=freezable)
    return Qat(model, freeze_above=freeze_above, track_every=track_every, momentum=momentum, schedule=schedule)


def _schedule(estimator: str, total_steps: int | None, strength: float | None) -> ProxSchedule | None:
    if find_estimator(estimator).rounds:
        if total_steps is not None or strength is not None:
            raise ConfigError(
                "only prox_quant has a schedule.", asked=f"estimator={estimator!r}", todo="leave total_steps out"
            )
        return None
    if total_steps is None:
        raise ConfigError("prox_quant pulls more from step to step, up to the last.", asked=None, todo="total_steps=N")
    return (
        ProxSchedule(total_steps=total_steps)
        if strength is None
        else ProxSchedule(total_steps=total_steps, strength=strength)
    )
