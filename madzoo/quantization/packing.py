"""Codes as bytes: a dense bit stream of 1 to 8 bits a code, and five ternary codes a byte.

Legend: n codes, b bits. The stream: code i fills bits i b to i b + b - 1, its lowest bit first; bit k of the stream is
bit k mod 8 of byte k div 8, the lowest being bit 0; bits after the last code are 0. A signed code is stored as its
two's complement in b bits; of one bit, whose codes are -1 and 1, a set bit means 1. Of ternary codes, byte j is
sum_i 3^i (c_{5j + i} + 1), i = 0 to 4, and codes that are missing at the end count as -1.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from madzoo.errors import ConfigError, DataError, ShapeError

__all__ = ["pack_codes", "pack_ternary", "packed_bytes", "unpack_codes", "unpack_ternary"]

MAX_BITS = 8
# To what codes are widened: torch compares few unsigned dtypes, and nothing holds all of uint64.
INTEGERS = {dtype: dtype for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)} | {
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}
TRITS = 5  # a byte: 3^5 = 243 of its 256 values, 1.6 bits a code where the entropy of three is 1.585


def pack_codes(codes: Tensor, bits: int, *, signed: bool | None = None) -> Tensor:
    """Packs codes of any shape, in the order of their elements.

    Args:
        codes: integers.
        bits: 1 to 8.
        signed: whether a code is a two's complement; None: where any is negative.

    Shapes:
        codes [...] of n elements -> uint8 [ceil(n b / 8)].

    Raises:
        ConfigError: when bits is not 1 to 8.
        ShapeError: when the codes are no integers.
        DataError: when a code does not fit.

    Cost: two bytes beside a code where b divides 8, else 2 b.

    Example:
        >>> pack_codes(torch.tensor([1, -2, 3]), 4).tolist()
        [225, 3]
    """
    packed_bytes(0, bits)
    wide = _integers(codes)
    signed = bool((wide < 0).any()) if signed is None else signed
    lowest, highest = _signed_range(bits) if signed else (0, 2**bits - 1)
    flat = _narrow(wide, lowest, highest, f"{bits} bits")
    if signed and bits == 1:
        if bool((flat == 0).any()):
            raise DataError("signed codes of one bit are -1 and 1.", asked="a code 0")
        flat = (flat + 1) // 2
    width = _width(bits)
    fields = (flat[:, None] >> _steps(bits, width, flat)) & (2**width - 1)
    stream = torch.nn.functional.pad(fields.reshape(-1), (0, -fields.numel() % (8 // width)))
    return (stream.reshape(-1, 8 // width) << _steps(8, width, flat)).sum(1).to(torch.uint8)


def unpack_codes(packed: Tensor, bits: int, shape: Sequence[int], signed: bool) -> Tensor:
    """Undoes :func:`pack_codes`.

    Args:
        packed: the bytes.
        bits: 1 to 8.
        shape: of the codes.
        signed: whether a code is a two's complement.

    Shapes:
        packed uint8 [ceil(n b / 8)] -> int16 ``shape``.

    Raises:
        ConfigError: when bits is not 1 to 8.
        ShapeError: when the bytes are not as many as the codes fill, or no bytes.
        DataError: when a bit after the last code is set.

    Cost: as :func:`pack_codes`.
    """
    count = _check_packed(packed, shape, packed_bytes(prod(shape), bits))
    width = _width(bits)
    fields = ((packed.to(torch.int16)[:, None] >> _steps(8, width, packed)) & (2**width - 1)).reshape(-1)
    used = count * bits // width
    if bool(fields[used:].any()):
        raise DataError("a bit after the last code is set.", asked=f"{count} codes of {bits} bits")
    codes = fields[:used].reshape(count, bits // width)
    codes = codes[:, 0] if width == bits else (codes << _steps(bits, width, packed)).sum(1, dtype=torch.int16)
    if signed:
        codes = 2 * codes - 1 if bits == 1 else codes - 2**bits * (codes >> (bits - 1))
    return codes.reshape(tuple(shape))


def pack_ternary(codes: Tensor) -> Tensor:
    """Packs codes -1, 0 and 1, five a byte: a fifth less than two bits each.

    Shapes:
        codes [...] of n elements -> uint8 [ceil(n / 5)].

    Raises:
        ShapeError: when the codes are no integers.
        DataError: when a code is not -1, 0 or 1.

    Example:
        >>> pack_ternary(torch.tensor([-1, 0, 1, 1, 1, 0])).tolist()
        [237, 1]
    """
    flat = _narrow(_integers(codes), -1, 1, "ternary")
    digits = torch.nn.functional.pad(flat + 1, (0, -len(flat) % TRITS)).reshape(-1, TRITS)
    return (digits * _powers(flat)).sum(1).to(torch.uint8)


def unpack_ternary(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Undoes :func:`pack_ternary`.

    Shapes:
        packed uint8 [ceil(n / 5)] -> int16 ``shape``.

    Raises:
        ShapeError: when the bytes are not as many as the codes fill, or no bytes.
        DataError: when a byte is above 242, or one after the last code is not -1.
    """
    count = _check_packed(packed, shape, -(-prod(shape) // TRITS))
    values = packed.to(torch.int16)
    _check_range(values, 0, 3**TRITS - 1, "five ternary codes")
    digits = (values[:, None] // _powers(values) % 3).reshape(-1)
    if bool(digits[count:].any()):
        raise DataError("a digit after the last code is set.", asked=f"{count} ternary codes")
    return (digits[:count] - 1).reshape(tuple(shape))


def packed_bytes(count: int, bits: int) -> int:
    """Returns how many bytes so many codes fill.

    Raises:
        ConfigError: when bits is not 1 to 8.

    Example:
        >>> packed_bytes(3, 4)
        2
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= MAX_BITS:
        raise ConfigError(f"codes have 1 to {MAX_BITS} bits.", asked=f"bits={bits!r}")
    return -(-count * bits // 8)


def _integers(codes: Tensor) -> Tensor:
    """Lays codes out flat, in a dtype that holds every one of them and that torch can compare."""
    if codes.dtype not in INTEGERS:
        raise ShapeError("codes are integers.", asked=codes.dtype, todo=", ".join(map(str, INTEGERS)))
    return codes.reshape(-1).to(INTEGERS[codes.dtype])


def _narrow(codes: Tensor, lowest: int, highest: int, what: str) -> Tensor:
    """Checks the range first: what does not fit would wrap round into it."""
    _check_range(codes, lowest, highest, what)
    return codes.to(torch.int16)


def _signed_range(bits: int) -> tuple[int, int]:
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _width(bits: int) -> int:
    """Bits that are moved at once: a whole code where a byte holds a whole number of codes."""
    return bits if 8 % bits == 0 else 1


def _steps(bits: int, width: int, like: Tensor) -> Tensor:
    return torch.arange(0, bits, width, dtype=torch.int16, device=like.device)


def _powers(like: Tensor) -> Tensor:
    return 3 ** torch.arange(TRITS, dtype=torch.int16, device=like.device)


def _check_range(codes: Tensor, lowest: int, highest: int, what: str) -> None:
    if codes.numel() and (codes.amin() < lowest or codes.amax() > highest):
        found = f"{codes.amin()} to {codes.amax()}"
        raise DataError(f"a code does not fit {what}: {lowest} to {highest}.", asked=found)


def _check_packed(packed: Tensor, shape: Sequence[int], size: int) -> int:
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != size:
        found = f"{packed.dtype} {tuple(packed.shape)}"
        raise ShapeError(f"codes of shape {tuple(shape)} fill {size} bytes.", asked=found)
    return prod(shape)
