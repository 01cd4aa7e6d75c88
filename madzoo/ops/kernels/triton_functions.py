# ruff: noqa: ANN001, ANN201 - the arguments are pointers, numbers and tiles: Triton has no Python types for them
# pyright: reportMissingImports=false, reportOptionalMemberAccess=false, reportInvalidTypeForm=false
"""Triton where it is installed, and the small functions that its kernels share.

Without Triton ``triton`` is None and a kernel stays a plain function that nobody calls: annotations are kept as text,
so that every file here can be imported anywhere.
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["TERMS", "fetch", "jit", "sigmoid", "softplus", "step_sizes", "tl", "triton"]

jit = triton.jit if triton else lambda function: function

# Of the series in softplus, by the bytes of a number: the next term is below half a unit in the last place.
TERMS = {4: 7, 8: 17}


@jit
def fetch(pointers, on, ACC: tl.constexpr):
    """Loads in the dtype of the computation, zero where masked."""
    return tl.load(pointers, mask=on, other=0).to(ACC)


@jit
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    small = tl.exp2(tl.abs(x) * -1.4426950408889634)
    inverse = 1.0 / (1.0 + small)
    return tl.where(x >= 0, inverse, small * inverse)


@jit
def softplus(x, TERMS: tl.constexpr):
    """max(x, 0) + log1p(exp(-|x|)), accurate where it is tiny; log1p(e) = 2 atanh(e / (2 + e)) as a series."""
    small = tl.exp2(tl.abs(x) * -1.4426950408889634)
    ratio = small / (2.0 + small)
    square = ratio * ratio
    series = tl.zeros_like(x)
    for k in tl.static_range(TERMS):
        series = series * square + 1.0 / (2 * (TERMS - k) - 1)
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + 2.0 * ratio * series)


@jit
def step_sizes(pointers, on, bias, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Returns dt and its derivative by delta; both are zero where masked."""
    raw = fetch(pointers, on, bias.dtype) + bias
    if SOFTPLUS:
        dt = softplus(raw, TERMS)
        slope = tl.where(raw > 20.0, 1.0, sigmoid(raw))
    else:
        dt = raw
        slope = tl.zeros_like(raw) + 1.0
    return tl.where(on, dt, 0.0), tl.where(on, slope, 0.0)
