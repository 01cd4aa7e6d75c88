"""A forecast as a function of time: coefficients of a basis, sampled at any rate.

Axes: D d_model, H steps, K functions, Q quantiles; [...] any axes.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest
from madzoo.layers.linear import Linear

__all__ = ["BASES", "FunctionalBasisDecoder", "fourier_basis", "legendre_basis"]


def legendre_basis(share_H: Tensor, count: int) -> Tensor:
    """Returns the Legendre polynomials of degree 0 to K - 1 at ``2 share - 1``, none beyond 1 in size.

    Shapes: share in [0, 1], [H] -> [H, K].

    Cost: K dependent steps.

    Source: Bonnet's recurrence, ``(k + 1) P_{k+1}(t) = (2 k + 1) t P_k(t) - k P_{k-1}(t)``.

    Example:
        >>> legendre_basis(torch.tensor([0.0, 0.5, 1.0]), 3).tolist()
        [[1.0, -1.0, 1.0], [1.0, 0.0, -0.5], [1.0, 1.0, 1.0]]
    """
    t_H = 2 * share_H - 1
    functions = [torch.ones_like(t_H), t_H]
    for k in range(1, count - 1):
        functions.append(((2 * k + 1) * t_H * functions[k] - k * functions[k - 1]) / (k + 1))
    return torch.stack(functions[:count], dim=-1)


def fourier_basis(share_H: Tensor, count: int) -> Tensor:
    """Returns the first K of 1, sin, cos, sin 2, cos 2, ... with the span as period.

    Shapes: share in [0, 1], [H] -> [H, K].

    Example:
        >>> fourier_basis(torch.tensor([0.25]), 3).round(decimals=6).tolist()
        [[1.0, 1.0, -0.0]]
    """
    waves = torch.arange(1, count // 2 + 1, dtype=share_H.dtype, device=share_H.device)
    angle_HK = 2 * math.pi * share_H.unsqueeze(-1) * waves
    pairs = torch.stack([angle_HK.sin(), angle_HK.cos()], dim=-1).flatten(-2)
    return torch.cat([torch.ones_like(share_H).unsqueeze(-1), pairs], dim=-1)[..., :count]


BASES: Mapping[str, Callable[[Tensor, int], Tensor]] = {"legendre": legendre_basis, "fourier": fourier_basis}


class FunctionalBasisDecoder(nn.Module):
    """Maps a state to one function of time for each quantile, and samples it: no parameter knows the sampling rate.

    Args:
        d_model: D.
        span: length of the time on which the functions live, in units of which ``scale`` is the sampling step.
        num_functions: K.
        num_quantiles: Q.
        basis: ``"legendre"`` (any course within the span) or ``"fourier"`` (ends where it began).

    Raises:
        ConfigError: on an unknown basis.

    Cost: D K Q parameters; H K Q multiplications a forecast.

    Source: arXiv 2508.05287, section 3 (functional basis decoder).

    Example:
        >>> decoder = FunctionalBasisDecoder(8, span=24, num_functions=5, num_quantiles=3, basis="legendre")
        >>> x = torch.randn(2, 8)
        >>> hourly, half_hourly = decoder(x, steps=24, scale=1.0), decoder(x, steps=48, scale=0.5)
        >>> hourly.shape, torch.allclose(hourly, half_hourly[:, 1::2], atol=1e-6)
        (torch.Size([2, 24, 3]), True)
    """

    def __init__(self, d_model: int, *, span: int, num_functions: int, num_quantiles: int, basis: str) -> None:
        super().__init__()
        if basis not in BASES:
            known = ", ".join(BASES)
            raise ConfigError(f"no basis is named {basis!r}.", asked=basis, looked=known, todo=nearest(basis, BASES))
        self.span, self.num_functions, self.num_quantiles, self.basis = span, num_functions, num_quantiles, basis
        self.projection = Linear(d_model, num_quantiles * num_functions)

    def forward(self, x: Tensor, *, steps: int, scale: float) -> Tensor:
        """Returns sorted quantiles at the times scale, 2 scale, ..., H scale after the present.

        Shapes: x [..., D] -> [..., H, Q].

        Raises:
            ConfigError: when the last step lies beyond the span, where the functions are of no use.
        """
        coefficients_QK = self.projection(x).unflatten(-1, (self.num_quantiles, self.num_functions))
        # Sums of many functions with either sign would lose what half precision keeps of them.
        with torch.autocast(device_type=x.device.type, enabled=False):
            wide = coefficients_QK.to(torch.promote_types(coefficients_QK.dtype, torch.float32))
            samples_HK = self.sample(steps, scale=scale, device=x.device).to(wide.dtype)
            return (wide @ samples_HK.mT).transpose(-1, -2).sort(dim=-1).values

    def sample(self, steps: int, *, scale: float, device: torch.device) -> Tensor:
        """Returns the basis at the steps of a forecast, [H, K] in float64.

        Raises:
            ConfigError: when the last step lies beyond the span.
        """
        last = steps * scale / self.span
        if not 0 < last <= 1 + 1e-9:
            raise ConfigError(
                "the forecast leaves the decoder's span.", asked=f"{steps} steps of {scale} in {self.span}"
            )
        dtype = torch.float32 if device.type == "mps" else torch.float64
        share_H = torch.arange(1, steps + 1, dtype=dtype, device=device) * (scale / self.span)
        return BASES[self.basis](share_H.clamp(max=1), self.num_functions)
