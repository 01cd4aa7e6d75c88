"""Round-to-nearest: every floating parameter of a module moved to a symmetric grid of few levels.

Legend: b bits, q = 2^(b-1) - 1 levels on each side of zero; 2 bits leave {-1, 0, 1} times the scale.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError, nearest

__all__ = ["BITS", "POLICIES", "quantize", "quantized_tensors", "round_to_nearest"]

BITS = range(2, 9)


def round_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """Rounds a tensor to a symmetric grid, one scale per slice of axis 0 (per tensor below two axes).

    ``scale = max |w| / q`` and ``w -> scale * round(w / scale)``, ties to even; zero is always a level, an all-zero
    slice stays zero. A complex tensor is rounded as pairs of reals under one scale. The arithmetic is that of the
    tensor's dtype, at least float32.

    Shapes:
        weight: [out, ...] -> the same.

    Raises:
        ConfigError: when ``bits`` is not 2 to 8.

    Example:
        >>> round_to_nearest(torch.tensor([[0.1, -0.7, 1.0], [0.0, 0.0, 0.0]]), 2)
        tensor([[ 0., -1.,  1.],
                [ 0.,  0.,  0.]])
    """
    _check_bits(bits)
    if weight.is_complex():
        rounded = _round_real(torch.view_as_real(weight), bits, per_channel=weight.ndim >= 2)
        return torch.view_as_complex(rounded.contiguous())
    return _round_real(weight, bits, per_channel=weight.ndim >= 2)


def _round_real(weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    if weight.numel() == 0:
        return weight.clone()
    levels = 2 ** (bits - 1) - 1
    w = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = (w.abs().amax(tuple(range(1, w.ndim)), keepdim=True) if per_channel else w.abs().amax()) / levels
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return ((w / scale).round().clamp(-levels, levels) * scale).to(weight.dtype)


POLICIES: dict[str, Callable[[Tensor, int], Tensor]] = {"rtn": round_to_nearest}


def quantize(model: nn.Module, bits: int, *, policy: str = "rtn") -> nn.Module:
    """Returns a copy of a model whose every floating parameter is rounded; buffers and the caller's model stay.

    The copy still stores floats (the grid is simulated), so it runs wherever the model runs. Tied parameters are
    rounded once and stay tied. Nothing is spared: biases, norms, A_log and dt are rounded too, per tensor where they
    have one axis.

    Args:
        model: any module.
        bits: 2 to 8.
        policy: ``"rtn"``, round to nearest.

    Raises:
        ConfigError: on other bits or an unknown policy.

    Example:
        >>> quantize(nn.Linear(3, 2), 4).weight.unique().numel() <= 2 * 15
        True
    """
    if policy not in POLICIES:
        raise ConfigError(
            f"unknown policy {policy!r}.", asked=policy, looked=", ".join(POLICIES), todo=nearest(str(policy), POLICIES)
        )
    _check_bits(bits)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in quantized_tensors(twin).values():
            parameter.copy_(POLICIES[policy](parameter, bits))
    return twin


def quantized_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that :func:`quantize` rounds, by name: every floating or complex one, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or bits not in BITS:
        raise ConfigError("weights are rounded to 2 to 8 bits.", asked=f"bits={bits!r}", todo="bits=8, 6, 4, 3 or 2")
