"""What goes along with a training on grids: pulls, looks at the codes, freezes, and at the end leaves a plain model."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from madzoo.errors import CheckpointError, ConfigError
from madzoo.quantization.fake_quant import detach, quantizers
from madzoo.quantization.oscillation import THRESHOLD, CodeTrace, OscillationRecord
from madzoo.quantization.prox import ProxSchedule, prox
from madzoo.quantization.qat_record import QatRecord
from madzoo.quantization.quantized import QuantizedTensor
from madzoo.quantization.tensor_kinds import kind_of

__all__ = ["Qat"]


class Qat:
    """Accompanies the training of a model whose parameters show their levels.

    Made by :func:`madzoo.quantization.prepare_qat`.
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

        Raises:
            ConfigError: when the training is finished, or the quantizers were taken off.
        """
        self._check_on("on_step")
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
            ConfigError: when it was finished before, or the quantizers were taken off.
            CheckpointError: when the state is not one of the model as it was trained.
            DataError: when a latent or a scale is not finite; the model then stays as it is.
        """
        self._check_on("finish")
        if state is not None:
            self._load(state)
        last, done = self.oscillation(), self.record()
        weights = detach(self.model)
        self._last, self._done = last, done
        return weights

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

    def _check_on(self, asked: str) -> None:
        if self._done is not None:
            raise ConfigError("this training is finished.", asked=asked, todo="prepare_qat(model, plan) anew")
        if gone := [name for name, held in self._held.items() if not held.is_on]:
            why, todo = "the quantizers of this training were taken off.", "prepare_qat(model, plan) anew"
            raise ConfigError(why, asked=asked, looked=", ".join(gone), todo=todo)

    def _look(self) -> None:
        for name, held in self._held.items():
            codes = held.rule.quantized(held.latent).codes
            if name in self._traces:
                self._traces[name].update(codes)
            else:
                self._traces[name] = CodeTrace(codes, momentum=self._momentum)

    def _freeze(self, above: float) -> None:
        for name, held in self._held.items():
            held.rule.freeze(*self._traces[name].settled(above, held.rule.grid))

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
