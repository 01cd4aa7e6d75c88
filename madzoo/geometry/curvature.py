"""Flatness of a minimum: the ends of the spectrum, traces per parameter group, and the noise of the gradient."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import BackendError, ConfigError
from madzoo.geometry.hessian import hessian_vector_product
from madzoo.geometry.hutchinson import BlockTrace, block_traces
from madzoo.geometry.lanczos import extreme_eigenpairs
from madzoo.geometry.noise_scale import gradient_noise_scale
from madzoo.geometry.sampled_loss import Loss

__all__ = ["Curvature", "curvature"]

MAX_ASYMMETRY = 1e-2


@dataclass(frozen=True, kw_only=True, slots=True)
class Curvature:
    """States how curved a mean loss is at one set of weights, on one batch.

    Attributes:
        operator: ``"hessian"``, or ``"ggn"`` (the Gauss-Newton matrix).
        loss, gradient_norm: at the weights; a curvature says little where the gradient is large.
        lambda_max: algebraically largest eigenvalue found, and ``lambda_max_residual`` = ``|H v - lambda v|``: an
            eigenvalue lies within it.
        lambda_min: what the same search says of the smallest (an upper bound of it), with its residual.
        asymmetry: the largest relative difference of ``v . H w`` and ``w . H v`` that the search met.
        iterations: products the search took. converged: whether ``lambda_max`` reached ``tolerance``.
        trace, trace_stderr: Hutchinson's estimate; the standard error is None with fewer than two probes.
        groups: the same of every group's diagonal block, from the same probes.
        probes, seed, tolerance: what was asked; the seed draws the start vector and the probes.
        noise_scale: ``tr Sigma / |g|^2`` in samples, None where undefined or not asked for, see
            :class:`madzoo.geometry.noise_scale.NoiseScale`; gradient_variance, squared_gradient: its two parts;
            microbatch: samples in each gradient.
        n, num_params, dtype: samples, real parameters that moved, and the precision.
    """

    operator: str
    loss: float
    gradient_norm: float
    lambda_max: float
    lambda_max_residual: float
    lambda_min: float
    lambda_min_residual: float
    asymmetry: float
    iterations: int
    converged: bool
    trace: float
    trace_stderr: float | None
    groups: dict[str, BlockTrace]
    probes: int
    seed: int
    tolerance: float
    noise_scale: float | None
    gradient_variance: float | None
    squared_gradient: float | None
    microbatch: int | None
    n: int
    num_params: int
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Curvature":
        """Builds from JSON values.

        Raises:
            ConfigError: on an unknown or missing key.
        """
        try:
            groups = {name: BlockTrace(**block) for name, block in values["groups"].items()}
            return cls(**{**values, "groups": groups})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a Curvature: {error}.", asked=sorted(values)) from error


def curvature(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    loss_fn: Loss,
    *,
    parameters: str | Sequence[str] | None = None,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    operator: str = "hessian",
    probes: int = 32,
    seed: int = 0,
    tolerance: float = 1e-7,
    max_products: int = 500,
    microbatch: int | None = 1,
    chunk_size: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Curvature:
    """Measures the flatness of a network's mean loss on a batch.

    The model is copied, in eval mode; the caller's, and torch's random state, stay as they are.

    Args:
        model: any module.
        batch: (inputs [n, ...], targets [n, ...]).
        loss_fn: (outputs, targets) -> the mean over samples.
        parameters: patterns of the parameters that move, ``"*A_log"``; None for all, frozen ones too.
        groups: group name -> patterns; None makes every parameter tensor a group.
        operator: ``"hessian"`` or ``"ggn"``.
        probes: of the traces.
        seed: of the start vector and the probes.
        tolerance: of the residual of ``lambda_max``, relative to the spectral norm.
        max_products: at which the search for ``lambda_max`` gives up (``converged`` is then False).
        microbatch: samples per gradient for the noise scale; None leaves it out, as a single sample does.
        chunk_size: samples differentiated at a time; None keeps the whole batch's graph in memory.
        dtype: float64 or float32.

    Raises:
        ConfigError: on an unknown operator or pattern, a norm with batch statistics, a loss that is no mean over
            samples, or microbatches that do not divide n.
        ShapeError: when the loss is no scalar or the batch no pair.
        DataError: when the loss is not finite or the batch empty.
        BackendError: when an operator of the network has no second derivative, or a wrong one: the Hessian is then
            not symmetric.

    Cost: (iterations + probes) products of some two backward passes each, n / microbatch gradients.

    Source: arXiv 1812.06162 (noise scale); Hutchinson 1990 (trace); Wu and Simon 2000 (Lanczos).

    Example:
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1)
        >>> found = curvature(nn.Linear(2, 1, bias=False), (x, y), nn.functional.mse_loss)
        >>> round(found.lambda_max, 9), round(found.lambda_min, 9), found.trace, found.trace_stderr
        (4.0, 1.0, 5.0, 0.0)
    """
    H = hessian_vector_product(
        model, batch, loss_fn, parameters=parameters, operator=operator, chunk_size=chunk_size, dtype=dtype
    )
    place, P = H.sampled.device, H.num_params
    noise = None
    if microbatch is not None and H.sampled.n > 1:
        noise = gradient_noise_scale(model, batch, loss_fn, parameters=parameters, microbatch=microbatch, dtype=dtype)
    whole, blocks = block_traces(H, H.sampled.blocks(groups), P, probes=probes, seed=seed, device=place)
    ends = extreme_eigenpairs(H, P, seed=seed, tolerance=tolerance, max_products=max_products, device=place)
    if ends.asymmetry > MAX_ASYMMETRY:
        raise BackendError(
            "the Hessian is not symmetric: an operator of this network has a wrong second derivative.",
            asked=f"relative asymmetry {ends.asymmetry:.1e}",
            todo="another implementation of that operator",
        )
    return Curvature(
        operator=operator,
        loss=H.loss,
        gradient_norm=H.gradient.norm().item(),
        lambda_max=ends.largest.value,
        lambda_max_residual=ends.largest.residual,
        lambda_min=ends.smallest.value,
        lambda_min_residual=ends.smallest.residual,
        asymmetry=ends.asymmetry,
        iterations=ends.products,
        converged=ends.converged,
        trace=whole.trace,
        trace_stderr=whole.stderr,
        groups=blocks,
        probes=probes,
        seed=seed,
        tolerance=tolerance,
        noise_scale=noise.value if noise else None,
        gradient_variance=noise.gradient_variance if noise else None,
        squared_gradient=noise.squared_gradient if noise else None,
        microbatch=microbatch,
        n=H.sampled.n,
        num_params=P,
        dtype=str(dtype).removeprefix("torch."),
    )
