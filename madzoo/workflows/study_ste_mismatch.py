"""How far an estimator's gradient is from what the rounded network does when its latents move by a grid step.

Legend: w latents, Q(w) the rounded weights, L the loss on a fixed batch, g the estimator's gradient, s the scales.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from madzoo.quantization.fake_quant import Quantizer, quantizers
from madzoo.quantization.grid import from_rows, to_rows

__all__ = ["gradient_mismatch"]

MOVED = 0.02  # share of the latents that a direction moves


def gradient_mismatch(
    model: nn.Module, twin: nn.Module, batch: tuple[Tensor, Tensor], *, directions: int, seed: int
) -> dict[str, Any]:
    """Compares g, the gradient that the estimator gives the latents, with two others.

    - ``differences``: along random directions u, each of which moves a fiftieth of the latents by plus or minus one
      step of their own grid, D(u) = (L(Q(w + u)) - L(Q(w - u))) / 2 is set against g . u; the number is the cosine of
      the two vectors over all directions (its error is about 1 / sqrt(directions)). As Q is piecewise constant, a
      step of this size is the smallest that means anything.
    - ``float_gradient``: the cosine of g and the gradient of L at the latents, unrounded.

    Args:
        model: with quantizers in place.
        twin: the plain module of the same parameters; its own weights do not matter where a quantizer holds them.
        batch: inputs and labels.
        directions: number of u.
        seed: of the directions.
    """
    held, (x, y) = quantizers(model), batch
    latents = [quantizer.latent for quantizer in held.values()]
    g = torch.autograd.grad(F.cross_entropy(model(x), y), latents, allow_unused=True)
    g = [torch.zeros_like(w) if part is None else part for part, w in zip(g, latents, strict=True)]
    plain = {name: quantizer.latent.detach().clone().requires_grad_() for name, quantizer in held.items()}
    slope = torch.autograd.grad(F.cross_entropy(functional_call(twin, plain, (x,)), y), list(plain.values()))
    found: list[tuple[float, float]] = []
    draw = torch.Generator().manual_seed(seed)
    for _ in range(directions):
        u = [_direction(quantizer, draw) for quantizer in held.values()]
        ends = [_rounded_loss(twin, held, u, sign, batch) for sign in (1, -1)]
        found.append(((ends[0] - ends[1]) / 2, float(sum((a * b).sum() for a, b in zip(g, u, strict=True)))))
    measured, predicted = torch.tensor(found, dtype=torch.float64).unbind(1)
    return {"differences": _cosine(measured, predicted), "float_gradient": _cosine(_flat(g), _flat(slope))}


@torch.no_grad()
def _rounded_loss(
    twin: nn.Module, held: dict[str, Quantizer], u: list[Tensor], sign: int, batch: tuple[Tensor, Tensor]
) -> float:
    pairs = zip(held.items(), u, strict=True)
    weights = {name: q.rule.quantized(q.latent + sign * move).dequantize() for (name, q), move in pairs}
    return F.cross_entropy(functional_call(twin, weights, (batch[0],)), batch[1]).item()


@torch.no_grad()
def _direction(quantizer: Quantizer, draw: torch.Generator) -> Tensor:
    w, grid = quantizer.latent, quantizer.rule.grid
    scale, _ = quantizer.rule.scales(w)
    step = from_rows(scale.expand_as(to_rows(w, grid)), w, grid).to(w.dtype)
    drawn = torch.rand(w.shape, generator=draw)
    return step * ((drawn < MOVED / 2).to(w.dtype) - (drawn > 1 - MOVED / 2).to(w.dtype))


def _flat(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.detach().double().flatten() for part in parts])


def _cosine(a: Tensor, b: Tensor) -> float | None:
    size = a.norm() * b.norm()
    return (a @ b / size).item() if size > 0 else None
