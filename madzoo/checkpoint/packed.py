"""What a checkpoint says of packed weights: a manifest inside the weight file, and its head in config.json.

The manifest (see :mod:`madzoo.quantization.packed_state`) stands in the weight file, so that the sha256 covers it and
the bare file can be loaded; its tables are left out of config.json, which people read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from madzoo.checkpoint.weights import read_metadata
from madzoo.errors import CheckpointError

__all__ = ["PACKING_KEY", "Packing", "check_head", "check_packing", "packing_head", "read_packing"]

PACKING_KEY = "packing"
SCHEMA = 1
TABLES = ("tensors", "ties")


class Strict(BaseModel):
    """Reads strictly typed values, all of them known."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class PackedGrid(Strict):
    """Levels that tensors are on; see :class:`madzoo.quantization.grid.Grid`."""

    bits: int
    kind: str
    symmetric: bool
    axis: int | None
    group_size: int | None
    dtype: str


class Packing(Strict):
    """The head of a manifest, config.json's ``quantization``.

    Attributes:
        version: of the manifest's layout.
        method: how the weights were quantized.
        bits: of the matrices.
        start: the model that was quantized.
        float_bytes: size of its weight file.
        grids: all levels in use.
    """

    version: Literal[1] = Field(alias="schema")
    method: str
    bits: int
    start: str | None
    float_bytes: int | None
    grids: list[PackedGrid]


def packing_head(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the manifest without its tables; None of weights that are not packed."""
    return None if manifest is None else {key: value for key, value in manifest.items() if key not in TABLES}


def check_packing(head: Mapping[str, Any] | None, *, path: object) -> Packing | None:
    """Reads config.json's ``quantization``; None where the weights are not packed.

    Raises:
        CheckpointError: on a newer schema, or a missing, unknown or ill-typed key.
    """
    if head is None:
        return None
    schema = head.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise CheckpointError(
            f"the weights of {path} are packed by schema {schema}; this madzoo reads {SCHEMA}.",
            asked=path,
            todo="upgrade madzoo",
        )
    try:
        return Packing.model_validate(head)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("quantization", *first["loc"]))
        raise CheckpointError(
            f"{path} has no usable {where!r}: {first['msg']}.", asked=path, todo="a folder that madzoo wrote"
        ) from error


def check_head(head: Mapping[str, Any] | None, path: Path) -> None:
    """Compares config.json's ``quantization`` with the manifest in the weight file.

    Raises:
        CheckpointError: when they disagree, or the file cannot be read.
    """
    if packing_head(read_packing(path)) != head:
        raise CheckpointError(
            "config.json tells of another packing than the weight file.",
            asked=path.parent,
            todo="fetch the checkpoint again, or write it again with madzoo quantize",
        )


def read_packing(path: Path) -> dict[str, Any] | None:
    """Reads the manifest out of a weight file; None of weights that are not packed.

    Raises:
        CheckpointError: when the file is missing or no safetensors, or its manifest no JSON object.
    """
    text = read_metadata(path).get(PACKING_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(values, dict):
        raise _unreadable(path, f"a {type(values).__name__}")
    return values


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the manifest of the packed weights in {path} is no JSON object: {why}.",
        asked=path,
        todo="fetch the checkpoint again, or write it again with madzoo quantize",
    )
