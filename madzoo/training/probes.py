"""Probes of the landscape around a run: a callback of the training loop that looks at the weights now and then."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.hessian import hessian_vector_product
from madzoo.geometry.lanczos import extreme_eigenpairs
from madzoo.geometry.noise_scale import NoiseScale, gradient_noise_scale
from madzoo.geometry.sampled_loss import Loss
from madzoo.geometry.selection import Output
from madzoo.training.probes_motion import Motion, flat_parameters, row_space, split_motion

__all__ = ["LandscapeProbe", "ProbeRecord", "ProbeSettings"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """States how often a probe looks, and how closely.

    Attributes:
        every: steps from one look to the next. At the default, with a batch no larger than the
            training's, the probes cost less than a tenth of the runs measured in docs/studies/flat_valleys.md.
        tolerance: of the residual of ``lambda_max``, relative to the spectral norm. max_products: at which the search
            gives up. seed: of its start.
        microbatches: into which the batch is cut for the noise scale; 0 leaves it out.
        motion_samples: first samples of the batch, on which J is taken; 0 leaves the motion out.
        output: what J differentiates.
        dtype: ``"float32"`` or ``"float64"``, of the products and the noise scale.
    """

    every: int = 1000
    tolerance: float = 1e-2
    max_products: int = 20
    seed: int = 0
    microbatches: int = 8
    motion_samples: int = 2
    output: Output = "logits"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.every < 1 or self.max_products < 1 or self.dtype not in DTYPES:
            raise ConfigError("every and max_products are at least 1, dtype float32 or float64.", asked=self)
        if self.microbatches == 1 or min(self.microbatches, self.motion_samples) < 0:
            raise ConfigError("0 or at least 2 microbatches, 0 or more samples for the motion.", asked=self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRecord:
    """States what one look found.

    Attributes:
        step, train_loss: as the loop told them. lr: learning rate of that step.
        loss: mean loss on the probe's batch, in eval mode.
        lambda_max: largest eigenvalue of the Hessian found; ``residual``: an eigenvalue lies within it; ``products``
            spent, and whether the search converged.
        edge_ratio: ``lambda_max lr / 2``. Gradient descent cannot rest where it is above 1; with momentum beta the
            bound is ``1 + beta``, and an adaptive method has another one, of its preconditioned Hessian.
        noise_scale: in samples, None where the batch cannot tell the gradient from 0, or not asked for;
            gradient_variance, squared_gradient: its two parts.
        motion: since the last look, split by J as it was then; None at the first look or where not asked for.
        seconds: what the look cost, wall time.
    """

    step: int
    train_loss: float
    lr: float
    loss: float
    lambda_max: float
    residual: float
    products: int
    converged: bool
    edge_ratio: float
    noise_scale: float | None
    gradient_variance: float | None
    squared_gradient: float | None
    motion: Motion | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)


class LandscapeProbe:
    """Looks at the landscape around the weights of a run, every so many steps, without touching the run.

    Give it to the loop: ``train(model, ..., on_step=LandscapeProbe(model, batch, loss_fn, lr=...))``. The model is
    copied for each look; its weights, mode, gradients and torch's random state stay as they are.

    Args:
        model: the one that is trained; not a wrapped one.
        batch: (inputs [n, ...], targets [n, ...]), fixed, drawn from the training data.
        loss_fn: (outputs, targets) -> the mean over samples; twice differentiable.
        lr: the constant learning rate, or a map from the step (counted from 1) to it.
        settings: see :class:`ProbeSettings`.

    Attributes:
        records: what was found, in order.

    Raises:
        ConfigError: when the batch does not split into the microbatches, or is smaller than ``motion_samples``.

    Cost: a look takes at most ``max_products + 2`` products of some two backward passes of the batch,
        ``microbatches`` gradients of a share of it, and one backward pass for every answer of ``motion_samples``.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: tuple[Tensor, Tensor],
        loss_fn: Loss,
        *,
        lr: float | Callable[[int], float],
        settings: ProbeSettings | None = None,
    ) -> None:
        self.model, self.batch, self.loss_fn = model, batch, loss_fn
        self.settings = settings or ProbeSettings()
        self.lr = lr if callable(lr) else lambda step: lr
        self.records: list[ProbeRecord] = []
        self._last: tuple[Tensor, Tensor] | None = None  # parameters and row space at the last look
        n, parts = len(batch[0]), self.settings.microbatches
        if (parts and n % parts) or n < self.settings.motion_samples:
            asked = f"{n} samples, {parts} microbatches, {self.settings.motion_samples} samples for the motion"
            raise ConfigError("the batch must split into the microbatches and hold the motion's samples.", asked=asked)

    def __call__(self, step: int, loss: float) -> None:
        """Looks, if it is time to; the signature of the loop's ``on_step``."""
        if step % self.settings.every == 0:
            self.look(step, loss)

    def look(self, step: int, loss: float) -> ProbeRecord:
        """Looks now, whatever the step; appends the record and returns it."""
        start, lr, s = time.perf_counter(), float(self.lr(step)), self.settings
        H = hessian_vector_product(self.model, self.batch, self.loss_fn, dtype=DTYPES[s.dtype])
        ends = extreme_eigenpairs(
            H, H.num_params, seed=s.seed, tolerance=s.tolerance, max_products=s.max_products, device=H.sampled.device
        )
        noise = self._noise(DTYPES[s.dtype])
        motion = self._motion()
        record = ProbeRecord(
            step=step,
            train_loss=loss,
            lr=lr,
            loss=H.loss,
            lambda_max=ends.largest.value,
            residual=ends.largest.residual,
            products=ends.products,
            converged=ends.converged,
            edge_ratio=ends.largest.value * lr / 2,
            noise_scale=noise.value if noise else None,
            gradient_variance=noise.gradient_variance if noise else None,
            squared_gradient=noise.squared_gradient if noise else None,
            motion=motion,
            seconds=time.perf_counter() - start,
        )
        self.records.append(record)
        return record

    def _noise(self, dtype: torch.dtype) -> NoiseScale | None:
        parts, n = self.settings.microbatches, len(self.batch[0])
        if not parts:
            return None
        return gradient_noise_scale(self.model, self.batch, self.loss_fn, microbatch=n // parts, dtype=dtype)

    def _motion(self) -> Motion | None:
        if not self.settings.motion_samples:
            return None
        here, before = flat_parameters(self.model).cpu(), self._last
        inputs = self.batch[0][: self.settings.motion_samples]
        self._last = (here, row_space(self.model, inputs, output=self.settings.output))
        return split_motion(before[1], here - before[0]) if before else None
