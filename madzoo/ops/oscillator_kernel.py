"""The convolution kernel of a diagonal system in real numbers: a sum of damped oscillations.

Axes: D channels, N conjugate pairs, L length.
"""

import torch
from torch import Tensor

from madzoo.errors import ShapeError

__all__ = ["oscillator_kernel"]


def oscillator_kernel(A_real: Tensor, A_imag: Tensor, C: Tensor, dt: Tensor, length: int) -> Tensor:
    """Samples what ``x' = A x + u``, ``y = 2 Re(C x)`` answers to a one held for dt, without complex numbers.

    It is the kernel that zero-order hold and :func:`madzoo.ops.vandermonde` give, for programs that know no complex
    exponential; D N L numbers are held at once.

    Args:
        A_real: real parts of the diagonal, below 0.
        A_imag: imaginary parts.
        C: output vector, real and imaginary parts.
        dt: step size.
        length: number of samples.

    Shapes:
        A_real, A_imag [D, N], C [D, N, 2], dt [D, 1] -> k [D, length].

    Raises:
        ShapeError: when length is below 1.

    Source: arXiv 2206.11893 (S4D), equation 6, with e^(a + ib) = e^a (cos b + i sin b).

    Example:
        >>> one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        >>> k = oscillator_kernel(-one, zero, torch.stack([one, zero], -1), one, 2)
        >>> [round(x, 4) for x in k[0].tolist()]
        [1.2642, 0.4651]
    """
    if length < 1:
        raise ShapeError("a kernel has at least one sample.", asked=f"length {length}")
    x, y = dt * A_real, dt * A_imag
    # B_bar = dt (e^(x + iy) - 1) / (x + iy); both parts of the numerator keep their digits near 0.
    real, imag = torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2).square(), torch.exp(x) * torch.sin(y)
    scale = dt / (x.square() + y.square())
    real, imag = (real * x + imag * y) * scale, (imag * x - real * y) * scale
    real, imag = C[..., 0] * real - C[..., 1] * imag, C[..., 0] * imag + C[..., 1] * real
    steps_L = torch.arange(length, device=x.device, dtype=x.dtype)
    phase_DNL = y.unsqueeze(-1) * steps_L
    swing_DNL = real.unsqueeze(-1) * torch.cos(phase_DNL) - imag.unsqueeze(-1) * torch.sin(phase_DNL)
    return 2 * (torch.exp(x.unsqueeze(-1) * steps_L) * swing_DNL).sum(1)
