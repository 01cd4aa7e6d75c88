"""Weight files: safetensors in and out, their sha256, and whether a state dict fits the one a model expects."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from madzoo.errors import CheckpointError

__all__ = [
    "atomic_path",
    "check_fit",
    "has_shapes_of",
    "lay_out_linear",
    "name_changes",
    "read_metadata",
    "read_weights",
    "sha256_of",
    "write_weights",
]

LFS_POINTER = b"version https://git-lfs"
METADATA_KEY = "madzoo"


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file as 64 hexadecimal digits.

    Raises:
        CheckpointError: when the file cannot be read.

    Cost: one pass over the file.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"cannot be read: {error}") from error


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file onto the CPU, whatever the default device is.

    Args:
        path: the file.
        sha256: what the file must hash to; None: not known.

    Raises:
        CheckpointError: when the file is missing, empty, truncated, no safetensors, or not the one that was hashed.
    """
    path = Path(path)
    _check_hash(path, sha256)
    try:
        return load_file(path, device="cpu")
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, _what_is_wrong(path, error)) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the strings that :func:`write_weights` stored; empty for a file that madzoo did not write.

    Raises:
        CheckpointError: when the file is missing or no safetensors.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            stored = (file.metadata() or {}).get(METADATA_KEY, "{}")
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, _what_is_wrong(Path(path), error)) from error
    try:
        values = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"has unreadable metadata: {error}") from error
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}


def write_weights(path: Path, state: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> str:
    """Writes a safetensors file atomically and returns its sha256; equal tensors and metadata give equal bytes.

    Args:
        path: the file; a present one is replaced.
        state: names and tensors; shared storage is written once per name.
        metadata: strings kept in the header.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    # safetensors writes several metadata keys in an arbitrary order; one key keeps the bytes reproducible.
    header = {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    with atomic_path(path) as partial:
        # save_file would leave a file that its owner alone can read; an installed package serves everyone.
        partial.write_bytes(save(tensors, metadata=header))
        return sha256_of(partial)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises:
        CheckpointError: when the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError, SafetensorError) as error:
        why = f"cannot be written: {error}"
        raise CheckpointError(f"{path} {why}.", asked=path, todo="a writable folder with free space") from error


def check_fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    owner: str,
    path: object,
    may_miss: Collection[str] = (),
) -> None:
    """Checks names, shapes and dtypes of a state dict against the one a model expects.

    Args:
        state: what the file holds.
        expected: the model's own state dict; only names, shapes and dtypes are read.
        owner: the model, for the message.
        path: the file, for the message.
        may_miss: names of ``expected`` that ``state`` may leave out.

    Raises:
        CheckpointError: listing every missing, unexpected, misshapen or narrowed tensor.
    """
    shared = [name for name in state if name in expected]
    misfits = {
        "missing": [name for name in expected if name not in state and name not in may_miss],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in shared
            if state[name].shape != expected[name].shape
        ],
        "of a dtype the model cannot hold": [
            f"{name} {state[name].dtype} into {expected[name].dtype}"
            for name in shared
            if not _widens(state[name].dtype, expected[name].dtype)
        ],
    }
    if any(misfits.values()):
        raise _misfit(misfits, owner, path)


def has_shapes_of(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Tells whether two state dicts have the same names and shapes."""
    shapes, expected_shapes = ({name: x.shape for name, x in held.items()} for held in (state, expected))
    return shapes == expected_shapes


def lay_out_linear(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict whose pointwise weights have the layout expected: [out, in] or [out, in, 1, 1].

    A linear layer and a 1 x 1 convolution are one function; some authors stored the one and load the other.

    Example:
        >>> lay_out_linear({"w": torch.ones(3, 2, 1, 1)}, {"w": torch.zeros(3, 2)})["w"].shape
        torch.Size([3, 2])
    """
    return {name: _reshaped(tensor, expected.get(name)) for name, tensor in state.items()}


def name_changes(stored: Mapping[str, Tensor], adapted: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Returns one line that names every tensor an adaptation touched; empty when it touched none.

    Args:
        stored: the state dict before the adaptation.
        adapted: after it; an untouched tensor is the same object.
        expected: what the model holds.

    Example:
        >>> name_changes({"head": torch.zeros(2)}, {}, {"head": torch.zeros(3)})
        'head initialised afresh'
    """
    dropped = [name for name in stored if name not in adapted]
    changes = {
        "initialised afresh": [name for name in dropped if name in expected],
        "left out": [name for name in dropped if name not in expected],
        "adapted": [name for name, tensor in adapted.items() if tensor is not stored.get(name)],
    }
    return "; ".join(f"{', '.join(names)} {phrase}" for phrase, names in changes.items() if names)


def _reshaped(tensor: Tensor, expected: Tensor | None) -> Tensor:
    if expected is None or {tensor.dim(), expected.dim()} != {2, 4}:
        return tensor
    shapes = [tuple(x.shape[2:]) for x in (tensor, expected)]
    is_same = tensor.shape[:2] == expected.shape[:2] and sorted(shapes) == [(), (1, 1)]
    return tensor.reshape(expected.shape) if is_same else tensor


def _misfit(misfits: Mapping[str, list[str]], owner: str, path: object) -> CheckpointError:
    counts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in misfits.items() if names]
    only_dtype = not any(names for kind, names in misfits.items() if not kind.startswith("of a dtype"))
    todo = "weights of this architecture and configuration; madzoo.model_info(name).config shows what it expects"
    if only_dtype:
        todo = "torch.set_default_dtype(torch.float64) before create_model, or a file stored in the model's dtype"
    return CheckpointError(f"the weights do not fit {owner}: {'; '.join(counts)}.", asked=owner, looked=path, todo=todo)


def _some(entries: list[str], most: int = 200) -> str:
    """Names every entry; those that differ only in numbers in front of a point once, with a count."""
    groups = Counter(re.sub(r"\d+(?=\.)", "*", entry) for entry in entries)
    first = {re.sub(r"\d+(?=\.)", "*", entry): entry for entry in reversed(entries)}
    told = [first[group] if count == 1 else f"{group} x {count}" for group, count in groups.items()]
    return ", ".join(told[:most]) + (f", and {len(told) - most} more kinds" if len(told) > most else "")


def _widens(source: torch.dtype, target: torch.dtype) -> bool:
    same_kind = (source.is_floating_point, source.is_complex) == (target.is_floating_point, target.is_complex)
    try:
        return source == target or (same_kind and torch.promote_types(source, target) == target)
    except RuntimeError:  # torch has no promotion for its 8-bit floating-point types
        return False


def _check_hash(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = sha256_of(path)
    if found != sha256:
        raise _unreadable(path, f"is not the file that was published: sha256 {found} instead of {sha256}")


def _what_is_wrong(path: Path, error: Exception) -> str:
    if not os.path.exists(path):
        return "is missing"
    if os.path.isdir(path):
        return "is a folder, not a file"
    if os.path.getsize(path) == 0:
        return "is empty"
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a Git LFS pointer: its content was never fetched (git lfs pull)"
    return f"is truncated, corrupted, or no safetensors file: {error}"


def _unreadable(path: object, why: str) -> CheckpointError:
    return CheckpointError(
        f"the weight file {path} {why}.",
        asked=path,
        resolved="a complete safetensors file, as madzoo or safetensors.torch.save_file writes it",
        todo="restore the file from its source, or delete it and load the model again to fetch it anew",
    )


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
