"""What a short kernel cannot show of an S4D system: a :class:`~madzoo.symmetry.Symmetry` computed, not written down.

A channel has 4 N + 1 parameters in a direction and T kernel values to show them. Where these are fewer, the null space
of the values' derivative, which is small and exact, moves nothing.

Legend: D channels, N conjugate pairs, T length, V visible numbers of a channel, U its parameters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from madzoo.ops.discretize import discretize_zoh
from madzoo.symmetry import Parameters, Symmetry, Term, from_terms

__all__ = ["kernel_null_space"]

PARTS = ("C", "log_dt", "log_A_real", "A_imag")


def kernel_null_space(length: int, states: int, channels: int, *, backward: bool) -> Symmetry | None:
    """Declares the null space of the kernels ``kernel_forward`` and ``kernel_backward`` and of the skip ``D``.

    Both kernels and the skip meet at lag 0, where only their sum shows.

    Args:
        length: T.
        states: 2 N.
        channels: D.
        backward: whether there is a kernel from the future.

    Returns:
        what is silent beside the units of time, which the kernels declare themselves; None where that is nothing.

    Cost: a singular value decomposition [V, U] for each channel.
    """
    kernels = ["kernel_forward"] + (["kernel_backward"] if backward else [])
    size = len(kernels) * (2 * states + 1) + 1
    visible = len(kernels) * (length - 1) + 1
    free = size - visible - len(kernels)  # the units of time, which the kernels declare, are among what is silent
    if free <= 0:
        return None

    def terms(params: Parameters) -> Iterator[Term]:
        known = torch.cat([_derivative(params, kernels, length), _time_units(params, kernels)], dim=1)
        silent = torch.linalg.svd(known, full_matrices=True).Vh[:, known.shape[1] :]
        shapes = [(f"{kernel}.{part}", params[f"{kernel}.{part}"].shape[1:]) for kernel in kernels for part in PARTS]
        shapes.append(("D", torch.Size()))
        number = torch.arange(channels * free)
        rows = number // free
        for (key, shape), values in zip(shapes, silent.split([s.numel() for _, s in shapes], dim=-1), strict=True):
            source, one = values.reshape(-1, *shape), torch.ones(len(number), dtype=torch.float64)
            yield Term(
                parameter=key, axis=0, rows=rows, coefficients=number, source=source, source_rows=number, weights=one
            )

    return from_terms("s4d.kernel_null_space", channels * free, terms)


def _derivative(params: Parameters, kernels: list[str], length: int) -> Tensor:
    """Returns the derivative of what a channel shows by its parameters, [D, V, U]."""
    columns, center = [], []
    for number, kernel in enumerate(kernels):
        jacobian = _kernel_derivative([params[f"{kernel}.{part}"].double() for part in PARTS], length)
        before, after = number * (length - 1), (len(kernels) - 1 - number) * (length - 1)
        columns.append(torch.nn.functional.pad(jacobian[:, 1:], (0, 0, before, after)))
        center.append(jacobian[:, :1])
    whole = torch.cat([torch.cat(columns, dim=-1), torch.cat(center, dim=-1)], dim=1)
    skip = torch.zeros_like(whole[..., :1])
    skip[:, -1] = 1
    return torch.cat([whole, skip], dim=-1)


def _time_units(params: Parameters, kernels: list[str]) -> Tensor:
    """Returns the direction of each kernel's unit of time, [D, kernels, U]."""
    found = []
    for number, kernel in enumerate(kernels):
        C, log_dt, log_A_real, A_imag = (params[f"{kernel}.{part}"].double() for part in PARTS)
        one = torch.ones_like(log_dt).unsqueeze(-1)
        moved = torch.cat([-C.flatten(1), one, -torch.ones_like(log_A_real), -A_imag], dim=1).unsqueeze(1)
        size = moved.shape[-1]
        found.append(torch.nn.functional.pad(moved, (number * size, (len(kernels) - 1 - number) * size + 1)))
    return torch.cat(found, dim=1)


def _kernel_derivative(parts: list[Tensor], length: int) -> Tensor:
    """Returns the derivative of 2 Re(C B_bar exp(dt A t)) by the parts of each channel, [D, T, U]."""
    C, log_dt, log_A_real, A_imag = parts
    with torch.enable_grad():
        dt, A = log_dt.exp().unsqueeze(-1), torch.complex(-log_A_real.exp(), A_imag)
        time = torch.arange(length, dtype=torch.float64, device=C.device)
        power = torch.exp((dt * A).unsqueeze(1) * time.reshape(1, -1, 1))  # [D, T, N]
        _, B_bar = discretize_zoh(A, torch.ones_like(A), dt)
        response = torch.view_as_complex(C.contiguous()).unsqueeze(1) * B_bar.unsqueeze(1) * power
        # d response / d A = (t dt + d log B_bar / d A) response, and dt A is all but a factor 1 / A of it.
        grown = torch.exp(dt * A)
        by_log_dt = dt * A * grown / (grown - 1)  # of log B_bar
        by_A = (time.reshape(1, -1, 1) * dt.unsqueeze(1)) + (by_log_dt / A - 1 / A).unsqueeze(1)
        gain = 2 * B_bar.unsqueeze(1) * power
        by_C = torch.stack([gain.real, -gain.imag], dim=-1).flatten(2)
        by_step = 2 * ((dt * A).unsqueeze(1) * time.reshape(1, -1, 1) * response + by_log_dt.unsqueeze(1) * response)
        towards_real = 2 * (by_A * response * A.real.unsqueeze(1)).real
        towards_imag = 2 * (by_A * response * 1j).real
    return torch.cat([by_C, by_step.real.sum(-1, keepdim=True), towards_real, towards_imag], dim=-1)
