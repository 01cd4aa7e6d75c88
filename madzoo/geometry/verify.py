"""Whether parameter tangents leave a network's output alone, to first order, without its Jacobian J.

Two ways, one statement. Reverse: for a Gaussian row vector w the product w J is one backward pass, and serves any
number of tangents; w J v vanishes with probability one only if J v does. Forward: J v by one forward-mode pass per
tangent. The scans have compiled backward passes but no forward mode, so reverse is the quicker by far.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from madzoo.errors import ConfigError, DataError, nearest
from madzoo.geometry.selection import Output, resolve_output

__all__ = ["MODES", "Probe", "check_mode", "generic_parameters", "off_zeros"]

MODES = ("reverse", "forward")
PROBES = 4  # Gaussian row vectors in reverse mode
Tangent = Mapping[str, Tensor]


class Probe:
    """Measures |J v| / |v| at one point of parameter space, beside that of a random tangent.

    Args:
        model: in eval mode and float64.
        params: the point, by parameter name; every parameter of the model.
        inputs: the sample.
        output: what is differentiated.
        mode: ``"reverse"`` or ``"forward"``.
        seed: of the probes and of the random tangent.

    Raises:
        ConfigError: when the mode is unknown.
        DataError: when the derivative is not finite there.

    Cost: reverse: one forward and :data:`PROBES` backward passes, once; forward: a forward-mode pass per tangent.
    """

    def __init__(
        self, model: nn.Module, params: Tangent, inputs: Tensor, *, output: Output, mode: str, seed: int
    ) -> None:
        check_mode(mode)
        self.model, self.params, self.inputs = model, dict(params), inputs
        self.function = resolve_output(output)
        self.random = torch.Generator().manual_seed(seed)
        self.rows = self._backward_passes() if mode == "reverse" else None
        noise = {name: _gaussian(p, self.random) for name, p in self.params.items()}
        self.scale = self._growth(noise)
        if not (torch.isfinite(torch.tensor(self.scale)) and self.scale > 0):
            raise DataError(
                "the output does not answer to its parameters, or not finitely.",
                looked=f"|Ju|/|u| = {self.scale} along a random tangent",
            )

    def relative(self, tangent: Tangent) -> float:
        """Returns (|J v| / |v|) / (|J u| / |u|), u random; 0 for a tangent that is 0."""
        return self._growth(tangent) / self.scale

    def _growth(self, tangent: Tangent) -> float:
        length = float(sum(v.abs().square().sum() for v in tangent.values())) ** 0.5
        if length == 0:
            return 0.0
        return (self._forward(tangent) if self.rows is None else self._against_rows(tangent)) / length

    def _against_rows(self, tangent: Tangent) -> float:
        products = [float(sum(_dot(row[name], v) for name, v in tangent.items())) for row in self.rows or []]
        return (sum(p * p for p in products) / len(products)) ** 0.5

    def _forward(self, tangent: Tangent) -> float:
        whole = {name: tangent.get(name, torch.zeros_like(p)) for name, p in self.params.items()}
        with sdpa_kernel(SDPBackend.MATH):
            moved = jvp(self._call, (self.params,), (whole,))[1]
        return float(moved.norm())

    def _call(self, params: Tangent) -> Tensor:
        return self.function(functional_call(self.model, dict(params), (self.inputs,)))

    @torch.inference_mode(False)
    def _backward_passes(self) -> list[dict[str, Tensor]]:
        with torch.enable_grad():
            leaves = {name: p.clone().requires_grad_() for name, p in self.params.items()}
            y = self._call(leaves)
            rows = []
            for _ in range(PROBES if y.requires_grad else 0):
                weighted = (y * torch.randn(y.shape, generator=self.random, dtype=y.dtype)).sum()
                found = torch.autograd.grad(
                    weighted, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
                )
                rows.append(dict(zip(leaves, found, strict=True)))
        return rows or [{name: torch.zeros_like(p) for name, p in self.params.items()}]


def check_mode(mode: str) -> None:
    """Raises a ConfigError when there is no such mode."""
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}.", asked=mode, looked=", ".join(MODES), todo=nearest(mode, MODES))


def generic_parameters(params: Tangent, *, seed: int) -> dict[str, Tensor]:
    """Returns a generic point near ``params``: each tensor moved by a tenth of its size, zeros too."""
    random = torch.Generator().manual_seed(seed)
    moved = {}
    for name, p in params.items():
        size = float(p.abs().square().mean().sqrt()) or 1.0
        moved[name] = p + 0.1 * size * _gaussian(p, random)
    return moved


def off_zeros(params: Tangent, *, seed: int) -> dict[str, Tensor]:
    """Returns ``params`` with what is exactly 0 moved by a thousandth of its tensor's size."""
    near = generic_parameters(params, seed=seed)
    return {name: torch.where(p == 0, p + 0.01 * (near[name] - p), p) for name, p in params.items()}


def _gaussian(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random, dtype=like.dtype).to(like.device)


def _dot(row: Tensor, tangent: Tensor) -> Tensor:
    # torch's gradient of a real number by a complex parameter is the direction of steepest ascent.
    return (row * tangent).sum() if not row.is_complex() else (row.conj() * tangent).real.sum()
