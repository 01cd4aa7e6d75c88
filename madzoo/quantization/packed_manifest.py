"""The manifest of packed weights: which tensor is on which grid, read so that nothing in it is taken on trust."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod
from reprlib import repr as short
from typing import Any

import torch

from madzoo.errors import CheckpointError, ConfigError, nearest
from madzoo.quantization.grid import Grid

__all__ = ["SCHEMA", "PackedEntry", "bad_manifest", "check_manifest", "read_entries"]

SCHEMA = 1
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
OPTIONAL = type(None)
KINDS: dict[str, tuple[type, ...]] = {
    "schema": (int,), "method": (str,), "bits": (int,), "start": (str, OPTIONAL), "float_bytes": (int, OPTIONAL),
    "grids": (list,), "tensors": (dict,), "ties": (dict,),
}  # fmt: skip
GRID_KINDS: dict[str, tuple[type, ...]] = {
    "bits": (int,), "kind": (str,), "symmetric": (bool,), "axis": (int, OPTIONAL), "group_size": (int, OPTIONAL),
    "dtype": (str,),
}  # fmt: skip
MAX_AXES, MAX_INDEX = 64, 2**63  # of a tensor of torch


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedEntry:
    """Says of one tensor what its bytes mean.

    Attributes:
        name: of the tensor.
        grid: its levels.
        dtype: of the tensor.
        shape: of its codes; those of a complex tensor are pairs.
    """

    name: str
    grid: Grid
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def is_ternary(self) -> bool:
        """Whether its codes are packed five a byte."""
        return self.grid.symmetric and self.grid.bits == 2

    @property
    def rows(self) -> int:
        """Scales of the tensor."""
        slices, width = self._slices
        return slices if self.grid.group_size is None else slices * -(-width // self.grid.group_size)

    @property
    def fitting_grid(self) -> Grid:
        """The same levels, with no group longer than a slice: groups are filled up, however long they claim to be."""
        if self.grid.group_size is None:
            return self.grid
        return dataclasses.replace(self.grid, group_size=min(self.grid.group_size, max(self._slices[1], 1)))

    @property
    def _slices(self) -> tuple[int, int]:
        """Slices of the grid's axis, and the elements of one."""
        if not self.shape or self.grid.axis is None:
            return 1, prod(self.shape)
        if not -len(self.shape) <= self.grid.axis < len(self.shape):
            raise bad_manifest(f"{self.name} has shape {self.shape}, its grid axis {self.grid.axis}")
        slices = self.shape[self.grid.axis]
        return slices, prod(self.shape) // max(slices, 1)


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Checks the keys of a manifest and the types of their values.

    Raises:
        CheckpointError: on a newer schema, or a missing, unknown or ill-typed entry.
    """
    if not isinstance(manifest, Mapping):
        raise bad_manifest(f"it is a {type(manifest).__name__}")
    schema = manifest.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise bad_manifest(f"it has schema {schema}; this madzoo reads {SCHEMA}", todo="upgrade madzoo")
    for key in manifest:
        if key not in KINDS:
            raise bad_manifest(f"it has the unknown key {key!r}", todo=nearest(str(key), KINDS))
    for key, kinds in KINDS.items():
        if key not in manifest or type(manifest[key]) not in kinds:
            raise bad_manifest(f"it has no usable {key!r}: {short(manifest.get(key))}")
    if schema != SCHEMA:
        raise bad_manifest(f"it has schema {schema!r}")
    for name, other in manifest["ties"].items():
        if not isinstance(other, str) or other not in manifest["tensors"]:
            raise bad_manifest(f"{name!r} cannot be tied to {short(other)}")


def read_entries(manifest: Mapping[str, Any]) -> Iterator[PackedEntry]:
    """Reads the table of tensors of a manifest that :func:`check_manifest` let pass.

    Raises:
        CheckpointError: on a grid that is none, or a tensor on no grid or of an impossible shape.
    """
    grids = [_read_grid(values) for values in manifest["grids"]]
    for name, row in manifest["tensors"].items():
        is_row = isinstance(row, list) and row and all(type(n) is int and n >= 0 for n in row)
        if not is_row or row[0] >= len(grids):
            raise bad_manifest(f"{name} is on no grid: {short(row)}")
        (grid, dtype), shape = grids[row[0]], tuple(row[1:])
        if len(shape) > MAX_AXES or prod(max(n, 1) for n in shape) >= MAX_INDEX:
            raise bad_manifest(f"{name} has the shape of no tensor: {short(shape)}")
        if dtype.is_complex and shape[-1:] != (2,):
            raise bad_manifest(f"{name} is complex, its codes no pairs: {short(shape)}")
        yield PackedEntry(name=name, grid=grid, dtype=dtype, shape=shape)


def bad_manifest(why: str, *, todo: str | None = None) -> CheckpointError:
    """Returns the error of a manifest that cannot be used."""
    return CheckpointError(
        f"the manifest of the packed weights is damaged, or not of these weights: {why}.",
        asked="packed weights",
        todo=todo or "fetch the checkpoint again, or write it again with madzoo quantize",
    )


def _read_grid(values: Any) -> tuple[Grid, torch.dtype]:
    known = [field.name for field in fields(Grid)]
    if not isinstance(values, dict) or set(values) != set(GRID_KINDS):
        raise bad_manifest(f"a grid is {', '.join(GRID_KINDS)}, not {short(values)}")
    wrong = [key for key, kinds in GRID_KINDS.items() if type(values[key]) not in kinds]
    if wrong:
        raise bad_manifest(f"a grid cannot be of {wrong[0]} {short(values[wrong[0]])}")
    if values["dtype"] not in DTYPES:
        raise bad_manifest(f"a grid is of {', '.join(DTYPES)}, not {short(values['dtype'])}")
    try:
        return Grid(**{name: values[name] for name in known}), DTYPES[values["dtype"]]
    except ConfigError as error:
        raise bad_manifest(f"a grid cannot be {short(values)}: {error}") from error
