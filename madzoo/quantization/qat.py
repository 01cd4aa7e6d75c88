"""Quantization-aware training: a model trained while its parameters show their levels, for any training loop.

A loop sees an ordinary module and calls :meth:`Qat.on_step` after each step; what an average keeps are latents.
"""

from numbers import Real

from torch import nn

from madzoo.errors import ConfigError
from madzoo.quantization.fake_quant import attach, quantizers
from madzoo.quantization.oscillation import MOMENTUM
from madzoo.quantization.prox import ProxSchedule
from madzoo.quantization.qat_run import Qat
from madzoo.quantization.quantized import Plan
from madzoo.quantization.straight_through import find_estimator

__all__ = ["prepare_qat"]


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
        scale_rule: see :class:`madzoo.quantization.level_view.FakeQuantize`.
        freeze_above: weights whose codes oscillate more often than this, 0 to 1, are fixed at the code nearest their
            mean; None: never. A single oscillation adds ``momentum`` to the frequency, which then fades.
        track_every: steps between two looks at the codes; frequencies count looks.
        momentum: of the frequencies.
        total_steps: of the training; ``"prox_quant"`` needs it, and it alone.
        prox_strength: see :class:`madzoo.quantization.prox.ProxSchedule`; of ``"prox_quant"`` alone.

    Raises:
        ConfigError: on an empty plan, ill-valued settings or such that do not go together, or a model that is
            prepared already; see also :func:`madzoo.quantization.fake_quant.attach`.

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
    _check_settings(freeze_above, track_every, momentum)
    schedule = _schedule(estimator, total_steps, prox_strength)
    freezable = freeze_above is not None
    attach(model, plan, estimator=estimator, observer=observer, scale_rule=scale_rule, freezable=freezable)
    return Qat(model, freeze_above=freeze_above, track_every=track_every, momentum=momentum, schedule=schedule)


def _check_settings(freeze_above: float | None, track_every: int, momentum: float) -> None:
    if not isinstance(track_every, int) or isinstance(track_every, bool) or track_every < 1:
        raise ConfigError("codes are looked at every step or every few.", asked=f"track_every={track_every!r}")
    if not isinstance(momentum, Real) or not 0 < momentum <= 1:
        raise ConfigError("the momentum of an average is above 0 and at most 1.", asked=f"momentum={momentum!r}")
    if freeze_above is not None and not (isinstance(freeze_above, Real) and 0 <= freeze_above <= 1):
        raise ConfigError("a frequency above which codes freeze is 0 to 1.", asked=f"freeze_above={freeze_above!r}")


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
