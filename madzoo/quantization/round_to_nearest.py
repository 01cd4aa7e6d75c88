"""Round-to-nearest of one tensor: the symmetric grid of few levels that every comparison starts from.

Legend: b bits, q = 2^(b-1) - 1 levels on each side of zero; 2 bits leave {-1, 0, 1} times the scale.
"""

from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.quantization.plan import quantized_parameters, weight_grid
from madzoo.quantization.quantized import quantize_tensor

__all__ = ["BITS", "check_bits", "quantized_tensors", "round_to_nearest"]

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
        >>> import torch
        >>> round_to_nearest(torch.tensor([[0.1, -0.7, 1.0], [0.0, 0.0, 0.0]]), 2)
        tensor([[ 0., -1.,  1.],
                [ 0.,  0.,  0.]])
    """
    check_bits(bits)
    return quantize_tensor(weight, weight_grid(weight, bits)).dequantize()


def quantized_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that rounding moves, by name: every floating or complex one, tied ones once."""
    return quantized_parameters(model)


def check_bits(bits: int) -> None:
    """Refuses bit widths other than 2 to 8.

    Raises:
        ConfigError: when it is none of them.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise ConfigError("weights are rounded to 2 to 8 bits.", asked=f"bits={bits!r}", todo="bits=8, 6, 4, 3 or 2")
