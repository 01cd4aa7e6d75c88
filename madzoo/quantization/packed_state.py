"""A state dict as packed tensors and back: codes, scales, and a manifest that says which tensor is on which grid."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from madzoo.errors import CheckpointError, ConfigError, DataError, MadzooError, ShapeError, nearest
from madzoo.quantization.packed_manifest import SCHEMA, PackedEntry, bad_manifest, check_manifest, read_entries
from madzoo.quantization.packing import pack_codes, pack_ternary, unpack_codes, unpack_ternary
from madzoo.quantization.quantized import QuantizedTensor

__all__ = ["SCHEMA", "pack_state", "unpack_state"]

SCALE, ZERO_POINT = ".scale", ".zero_point"
REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pack_state(
    state: Mapping[str, Tensor],
    weights: Mapping[str, QuantizedTensor],
    *,
    method: str,
    bits: int,
    start: str | None = None,
    float_bytes: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Replaces quantized tensors of a state dict by their packed codes and scales; the others stay as they are.

    The codes stand under the tensor's own name, the scales under ``NAME.scale`` and zero points, as bytes, under
    ``NAME.zero_point``. Codes of two bits that are -1, 0 and 1 are packed five a byte, all others as a bit stream.

    Args:
        state: of the quantized model. A name whose storage is a quantized tensor's is stored as its tie.
        weights: the quantized tensors, by name.
        method: how they were found: ``"rtn"``, ``"gauge"``, ``"qat"``, ...
        bits: of the matrices.
        start: name of the model that was quantized.
        float_bytes: size of its weight file.

    Returns:
        The tensors to store, and the manifest, plain JSON, that :func:`unpack_state` needs.

    Raises:
        ConfigError: when a quantized tensor is none of the state's, or not of its shape and dtype, or a name is taken.
        DataError: when a code is none of its grid's, or a zero point is no code.
    """
    ties = _ties(state, weights)
    stored = {name: tensor for name, tensor in state.items() if name not in weights and name not in ties}
    grids: list[dict[str, Any]] = []
    tensors: dict[str, list[int]] = {}
    for name, weight in weights.items():
        _check_weight(name, weight, state)
        grid = {**weight.grid.to_dict(), "dtype": str(weight.dtype).removeprefix("torch.")}
        if grid not in grids:
            grids.append(grid)
        entry = PackedEntry(name=name, grid=weight.grid, dtype=weight.dtype, shape=tuple(weight.codes.shape))
        for key, tensor in _pack(entry, weight).items():
            if key in stored:
                raise ConfigError("a tensor of the model has the name of packed scales.", asked=key)
            stored[key] = tensor
        tensors[name] = [grids.index(grid), *entry.shape]
    manifest = {
        "schema": SCHEMA, "method": method, "bits": bits, "start": start, "float_bytes": float_bytes, "grids": grids,
        "tensors": tensors, "ties": ties,
    }  # fmt: skip
    return stored, manifest


def unpack_state(stored: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """Undoes :func:`pack_state`: every tensor is what :meth:`QuantizedTensor.dequantize` returns, to the bit.

    Raises:
        CheckpointError: on a manifest of a newer schema, with a missing, unknown or ill-typed entry, or one that the
            tensors do not fit.
    """
    check_manifest(manifest)
    state = dict(stored)
    for entry in read_entries(manifest):
        try:
            state[entry.name] = _unpack(entry, state).dequantize()
        except KeyError as error:
            raise bad_manifest(f"the file has no tensor {error}") from error
        except CheckpointError:
            raise
        except MadzooError as error:
            raise bad_manifest(f"{entry.name}: {error}") from error
    for name, other in manifest["ties"].items():
        if name in state:
            raise bad_manifest(f"{name!r} cannot be tied to {other!r}")
        state[name] = state[other]
    return state


def _pack(entry: PackedEntry, weight: QuantizedTensor) -> dict[str, Tensor]:
    grid, codes = entry.grid, weight.codes
    if codes.numel() and (codes.amin() < grid.lowest or codes.amax() > grid.highest):
        raise DataError("a code is none of its grid's.", asked=entry.name, resolved=f"{grid.lowest} to {grid.highest}")
    packed = pack_ternary(codes) if entry.is_ternary else pack_codes(codes, grid.bits, signed=grid.symmetric)
    parts = {entry.name: packed, entry.name + SCALE: weight.scale.detach().reshape(-1)}
    if weight.zero_point is not None:
        zero = weight.zero_point.detach().reshape(-1)
        if bool(((zero != zero.round()) | (zero < 0) | (zero > 255)).any()):
            raise DataError("a zero point is no code.", asked=entry.name, resolved=f"{grid.lowest} to {grid.highest}")
        parts[entry.name + ZERO_POINT] = zero.to(torch.uint8)
    return parts


def _unpack(entry: PackedEntry, state: dict[str, Tensor]) -> QuantizedTensor:
    """Takes a tensor's parts out of the state."""
    packed, scale = state.pop(entry.name), state.pop(entry.name + SCALE)
    zero = None if entry.grid.symmetric else state.pop(entry.name + ZERO_POINT)
    for part in (scale, *([] if zero is None else [zero])):
        if part.shape != (entry.rows,):
            raise ShapeError("one scale and zero point a row.", asked=tuple(part.shape), resolved=f"{entry.rows} rows")
    if scale.dtype not in REAL or not bool(scale.isfinite().all()):
        raise DataError("scales are finite real numbers.", asked=scale.dtype)
    if zero is not None and zero.dtype != torch.uint8:
        raise DataError("zero points are bytes.", asked=zero.dtype)
    if entry.is_ternary:
        codes = unpack_ternary(packed, entry.shape)
    else:
        codes = unpack_codes(packed, entry.grid.bits, entry.shape, entry.grid.symmetric)
    if codes.numel() and (codes.amin() < entry.grid.lowest or codes.amax() > entry.grid.highest):
        raise DataError("a code is none of its grid's.", asked=f"{codes.amin()} to {codes.amax()}")
    zero_point = None if zero is None else zero.to(scale.dtype).unsqueeze(1)
    return QuantizedTensor(
        grid=entry.fitting_grid, codes=codes, scale=scale.unsqueeze(1), zero_point=zero_point, dtype=entry.dtype
    )


def _ties(state: Mapping[str, Tensor], weights: Mapping[str, QuantizedTensor]) -> dict[str, str]:
    owners = {_place(state[name]): name for name in weights if name in state and state[name].numel()}
    others = {name: _place(tensor) for name, tensor in state.items() if name not in weights and tensor.numel()}
    return {name: owners[place] for name, place in others.items() if place in owners}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _check_weight(name: str, weight: QuantizedTensor, state: Mapping[str, Tensor]) -> None:
    if name not in state:
        raise ConfigError("the state has no such tensor.", asked=name, todo=nearest(name, state))
    shape = tuple(state[name].shape) + ((2,) if weight.dtype.is_complex else ())
    if shape != tuple(weight.codes.shape) or state[name].dtype != weight.dtype:
        found = f"{weight.dtype}, codes {tuple(weight.codes.shape)}"
        raise ConfigError(
            "the quantized tensor is not the state's.", asked=f"{name}: {found}",
            resolved=f"{state[name].dtype} {tuple(state[name].shape)}",
        )  # fmt: skip
