"""Objectives whose valleys come from rescaling a mode's two factors: a ReLU network, a diagonal state-space model.

Legend: h modes; ReLU: x [n, d], w [h, d], v [h]; state space: decay_log, b, c [h], kernel [L].
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from madzoo.errors import ConfigError
from madzoo.landscape.hyperbola import best_assignment, nearest_on_hyperbola
from madzoo.landscape.objective import Objective

__all__ = ["DiagonalSSM", "ReluNetwork", "draw_relu_network"]

MAX_MODES = 6  # whose permutations are tried


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagonalSSM(Objective):
    """Fits the kernel ``K_l = sum_n w_n exp(-l rate_n)`` by ``sum_n c_n b_n exp(-l e^(decay_log_n))``, as S4D does.

    theta = (decay_log, b, c). The kernel sees b and c only as a product, so every mode has a hyperbola of minima
    ``b c = w``; modes may change places. Gradient flow keeps ``b^2 - c^2``. Along the valley the sharpness grows with
    each ``b^2 + c^2``, so that it is least where ``abs(b) = abs(c)`` in every mode.

    Attributes:
        rates: decay rates of the known kernel, positive and distinct. weights: w, none 0.
        length: L, at least 2 h, so that the kernel tells the modes apart.
    """

    rates: tuple[float, ...]
    weights: tuple[float, ...]
    length: int

    def __post_init__(self) -> None:
        h = len(self.rates)
        if not 1 <= h <= MAX_MODES or len(self.weights) != h or len(set(self.rates)) < h or self.length < 2 * h:
            raise ConfigError("1 to 6 distinct rates, as many weights, and length >= 2 h.", asked=(h, self.length))
        if min(self.rates) <= 0 or 0 in self.weights:
            raise ConfigError("rates must be positive and no weight 0.", asked=(self.rates, self.weights))

    @property
    def num_params(self) -> int:
        """3 h."""
        return 3 * len(self.rates)

    @property
    def valley_dimension(self) -> int:
        """Number of modes."""
        return len(self.rates)

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """The known modes: logarithms of the rates, and the weights, [h] each."""
        return torch.tensor(self.rates, dtype=torch.float64).log(), torch.tensor(self.weights, dtype=torch.float64)

    def kernel(self, theta: Tensor) -> Tensor:
        """Returns the kernel of theta, [..., L]."""
        decay_log, b, c = theta.chunk(3, dim=-1)
        times = torch.arange(self.length, dtype=theta.dtype)
        return ((b * c).unsqueeze(-1) * (-decay_log.exp().unsqueeze(-1) * times).exp()).sum(-2)

    def residual(self, theta: Tensor) -> Tensor:
        """Returns the difference of the kernels, [..., L]."""
        return self.kernel(theta) - self.kernel(self.valley_point())

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns balanced modes, b times ``spread``, c divided by it."""
        decay_log, w = self.known
        size = w.abs().sqrt()
        return torch.cat([decay_log, spread * size, w.sign() * size / spread])

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns the nearest valley point, over all orders of the modes."""
        decay_log, b, c = theta.chunk(3, dim=-1)
        known, w = self.known
        x, y = nearest_on_hyperbola(b.unsqueeze(-1), c.unsqueeze(-1), w)
        costs = (x - b.unsqueeze(-1)).square() + (y - c.unsqueeze(-1)).square()
        order = best_assignment(costs + (known - decay_log.unsqueeze(-1)).square())
        x, y = (v.gather(-1, order.unsqueeze(-1)).squeeze(-1) for v in (x, y))
        return torch.cat([known[order], x, y], dim=-1)

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns ``b^2 - c^2`` of every mode, [..., h]."""
        _, b, c = theta.chunk(3, dim=-1)
        return b.square() - c.square()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReluNetwork(Objective):
    """Fits ``f(x) = sum_j v_j relu(w_j . x)`` to a known network of the same width, as a mean over the samples.

    theta = (w, v). The loss is unchanged when a unit's w is multiplied and its v divided by the same positive number,
    and when units change places; where the data identify the units otherwise, that is the whole valley. Gradient flow
    keeps ``|w_j|^2 - v_j^2``. The flattest point is found by a convex search over the logarithms of the h scales: on
    the valley ``J J^T`` is a sum of positive matrices times exponentials of them.

    Attributes:
        x: samples [n, d]. w, v: the known units [h, d], [h]; every v is not 0.
        scales_log: logarithms of the scales of the flattest point, [h]; :func:`draw_relu_network` finds them.
    """

    x: Tensor
    w: Tensor
    v: Tensor
    scales_log: Tensor

    @property
    def num_params(self) -> int:
        """Entries of w and v."""
        return self.w.numel() + self.v.numel()

    @property
    def valley_dimension(self) -> int:
        """Number of modes."""
        return len(self.v)

    def units(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Cuts theta into w [..., h, d] and v [..., h]."""
        h = len(self.v)
        return theta[..., :-h].unflatten(-1, (h, -1)), theta[..., -h:]

    def residual(self, theta: Tensor) -> Tensor:
        """Returns the difference of the answers, over sqrt(n), [..., n]."""
        w, v = self.units(theta)
        return (_answer(self.x, w, v) - _answer(self.x, self.w, self.v)) / math.sqrt(len(self.x))

    def valley_point(self, spread: float = 1.0) -> Tensor:
        """Returns the flattest point, every w times ``spread``, every v divided by it."""
        return _rescaled(self.w, self.v, self.scales_log + math.log(spread))

    def nearest(self, theta: Tensor) -> Tensor:
        """Returns the nearest point of the known units' orbit: over all positive scales and all orders."""
        w, v = self.units(theta)
        size = self.w.norm(dim=-1)
        along = self.w / size.unsqueeze(-1)
        inner = w @ along.mT
        x, y = nearest_on_hyperbola(inner, v.unsqueeze(-1), size * self.v, positive=True)
        aside = w.square().sum(-1, keepdim=True) - inner.square()
        order = best_assignment((x - inner).square() + (y - v.unsqueeze(-1)).square() + aside)
        x, y = (u.gather(-1, order.unsqueeze(-1)).squeeze(-1) for u in (x, y))
        return torch.cat([(x.unsqueeze(-1) * along[order]).flatten(-2), y], dim=-1)

    def conserved(self, theta: Tensor) -> Tensor:
        """Returns ``|w_j|^2 - v_j^2``, [..., h]."""
        w, v = self.units(theta)
        return w.square().sum(-1) - v.square()


def draw_relu_network(units: int, *, inputs: int, samples: int, seed: int) -> ReluNetwork:
    """Draws Gaussian samples and units, and finds the flattest point.

    Raises:
        ConfigError: when there are more than 6 units, or the samples do not identify the units up to their scales.
    """
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=draw, dtype=torch.float64)
    w = torch.randn(units, inputs, generator=draw, dtype=torch.float64)
    v = torch.randint(2, (units,), generator=draw).double() * 2 - 1
    plain = ReluNetwork(x=x, w=w, v=v, scales_log=torch.zeros(units, dtype=torch.float64))
    rank = int(torch.linalg.matrix_rank(plain.jacobian(plain.valley_point())))
    if units > MAX_MODES or rank != plain.num_params - units:
        asked = f"{units} units, {samples} samples, rank {rank} of {plain.num_params}"
        raise ConfigError("the samples leave more than the scales open.", asked=asked, todo="more samples, fewer units")
    return ReluNetwork(x=x, w=w, v=v, scales_log=_flattest_scales(plain))


def _answer(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return (torch.relu(w @ x.mT) * v.unsqueeze(-1)).sum(-2)


def _rescaled(w: Tensor, v: Tensor, scales_log: Tensor) -> Tensor:
    scale = scales_log.exp()
    return torch.cat([(w * scale.unsqueeze(-1)).flatten(), v / scale])


def _flattest_scales(network: ReluNetwork) -> Tensor:
    """Minimises the largest eigenvalue of J J^T over log scales: smoothed, ever less; convex at every stage."""
    h, d = network.w.shape
    J = network.jacobian(network.valley_point())
    J_w, J_v = J[:, :-h].unflatten(1, (h, d)).movedim(1, 0), J[:, -h:].mT.unsqueeze(-1)
    by_w, by_v = J_w @ J_w.mT, J_v @ J_v.mT  # [h, n, n]
    t = torch.zeros(h, dtype=torch.float64, requires_grad=True)
    for sharp in (10.0, 1e2, 1e3, 1e4):
        search = torch.optim.LBFGS([t], max_iter=300, tolerance_change=1e-14, line_search_fn="strong_wolfe")
        search.step(partial(_smoothed_largest, by_w, by_v, t, sharp))
    return t.detach()


def _smoothed_largest(by_w: Tensor, by_v: Tensor, t: Tensor, sharp: float) -> float:
    """Returns the smoothed largest eigenvalue at log scales t, and leaves its gradient in ``t.grad``."""
    weight = (2 * t).view(-1, 1, 1).exp()
    spectrum = torch.linalg.eigvalsh((by_w / weight + by_v * weight).sum(0))
    value = torch.logsumexp(sharp * spectrum, 0) / sharp
    (t.grad,) = torch.autograd.grad(value, t)
    return value.item()
