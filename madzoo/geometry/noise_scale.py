"""The gradient noise scale: at which batch size the noise of a gradient is as large as the gradient.

Legend: n samples in K microbatches of b, g_k gradient of one microbatch, P parameters, Sigma covariance of the
gradient of one sample, g the expected gradient.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.sampled_loss import Loss, SampledLoss, derivative, flatten, twice_differentiable

__all__ = ["NoiseScale", "gradient_noise_scale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """States how noisy the gradient of one sample is.

    Attributes:
        value: ``gradient_variance / squared_gradient`` in samples: batches well below it are dominated by noise. None
            where ``squared_gradient`` is not positive: then the sample is too small to tell the gradient from 0 (as at
            a minimum, where g is 0 and the scale infinite). A ratio of two unbiased estimates is itself biased.
        gradient_variance: tr Sigma, unbiased for samples drawn independently.
        squared_gradient: ``|g|^2``, unbiased: ``|mean gradient|^2 - tr Sigma / n``; may come out negative.
        n: samples. microbatch: samples in each gradient.
    """

    value: float | None
    gradient_variance: float
    squared_gradient: float
    n: int
    microbatch: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)


def gradient_noise_scale(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    loss_fn: Loss,
    *,
    parameters: str | Sequence[str] | None = None,
    microbatch: int = 1,
    dtype: torch.dtype = torch.float64,
) -> NoiseScale:
    """Estimates ``tr Sigma / |g|^2`` from the gradients of microbatches at the present parameters.

    Args:
        model: any module; it is copied (eval mode: no dropout noise), never changed.
        batch: (inputs, targets), drawn independently from the data that training draws from.
        loss_fn: (outputs, targets) -> the mean over samples.
        parameters: patterns of the parameters that move; None for all.
        microbatch: b. 1 takes a gradient per sample; larger ones take fewer and scatter more.
        dtype: float64 or float32.

    Raises:
        ConfigError: when n is no multiple of b or there are fewer than two microbatches; when the mean of their losses
            is not the loss of the batch (then the loss is no mean over samples, or samples are coupled).
        ShapeError, DataError: as :class:`madzoo.geometry.sampled_loss.SampledLoss`.

    Cost: K forward and backward passes of b samples, 3 P numbers.

    Source: arXiv 1812.06162, equation 2.9 and appendix A.1 with the batches b and n.
    """
    sampled = SampledLoss(model, batch, loss_fn, parameters=parameters, dtype=dtype)
    n, count = sampled.n, sampled.n // microbatch if microbatch > 0 else 0
    if count < 2 or count * microbatch != n:
        todo = "at least two microbatches, all of one size"
        raise ConfigError("the samples do not split into microbatches.", asked=f"{n} by {microbatch}", todo=todo)
    losses, mean, scatter = [], torch.zeros(sampled.num_params, dtype=dtype, device=sampled.device), 0.0
    with twice_differentiable():
        for k, (_, inputs, targets) in enumerate(sampled.chunks(microbatch), start=1):
            loss = sampled.loss(sampled.network(inputs), targets)
            gradient = flatten(derivative([loss], sampled.parameters, [torch.ones_like(loss)]))
            losses.append(loss.item())
            step = gradient - mean  # Welford: no difference of two large sums
            mean = mean + step / k
            scatter += (step @ (gradient - mean)).item()
    _compare(sum(losses) / count, sampled)
    return _estimate(scatter / (count - 1) * microbatch, (mean @ mean).item(), n=n, microbatch=microbatch)


def _estimate(variance: float, squared_mean: float, *, n: int, microbatch: int) -> NoiseScale:
    squared = squared_mean - variance / n
    return NoiseScale(
        value=variance / squared if squared > 0 else None,
        gradient_variance=variance,
        squared_gradient=squared,
        n=n,
        microbatch=microbatch,
    )


@torch.no_grad()
def _compare(mean: float, sampled: SampledLoss) -> None:
    whole = float(sampled.loss_fn(sampled.network(sampled.inputs), sampled.targets))
    if abs(mean - whole) > torch.finfo(sampled.dtype).eps ** 0.5 * max(abs(mean), abs(whole), 1e-12):
        raise ConfigError(
            "the loss of the batch is not the mean over its samples.",
            asked=f"{whole:.6g} for the batch, {mean:.6g} on average for its parts",
            todo="a loss_fn that averages over samples; or microbatch=None, which leaves the noise scale out",
        )
