"""Weight files that madzoo did not write: the authors' ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` and ``.safetensors``."""

import argparse
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madzoo.checkpoint.guard import refusing
from madzoo.checkpoint.weights import read_metadata, read_weights, sha256_of
from madzoo.errors import CheckpointError

__all__ = ["read_foreign", "read_state"]

STATE_KEYS = ("model", "model_ema", "state_dict")
PREFIXES = ("module.", "_orig_mod.")
SAFETENSORS = ".safetensors"
logger = logging.getLogger(__name__)


def read_state(
    path: Path, *, sha256: str | None = None, remap: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Reads a weight file of any kind; names in one that madzoo did not write go through ``remap``.

    Args:
        path: the file.
        sha256: what it must hash to; None: not known.
        remap: turns the authors' names and layouts into ours.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, not the one that was hashed, or no state dict.
    """
    is_own = path.suffix == SAFETENSORS and "architecture" in read_metadata(path)
    if is_own:
        return read_weights(path, sha256=sha256)
    state = read_foreign(path, sha256=sha256)
    return remap(state) if remap else state


def read_foreign(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads the state dict of an authors' file onto the CPU; pickles with ``weights_only=True`` alone.

    A dictionary under ``"model"``, ``"model_ema"`` or ``"state_dict"`` (the first present) is taken out of its
    wrapping, and the prefixes that data parallelism and compilation leave on every name are removed.

    Args:
        path: the file.
        sha256: what it must hash to; None: not known.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, not the one that was hashed, or no state dict.
    """
    if path.suffix == SAFETENSORS:
        return _strip_prefixes(read_weights(path, sha256=sha256))
    found = sha256_of(path) if sha256 else None
    if found != sha256:
        raise _refused(path, f"is not the file that was published: sha256 {found} instead of {sha256}")
    return _strip_prefixes(_unwrap(_unpickle(path), path))


def _unpickle(path: Path) -> object:
    with (
        refusing(CheckpointError, f"the weight file {path} cannot be read safely", **_expected(path)),
        warnings.catch_warnings(action="ignore"),  # of file versions that torch then either reads or refuses
        torch.serialization.safe_globals([argparse.Namespace]),  # plain data that training scripts like to store
        torch.device("cpu"),
    ):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    holders = [key for key in STATE_KEYS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    if len(holders) > 1:
        logger.warning("%s holds %s; %s is read.", path, " and ".join(holders), holders[0])
    state = content[holders[0]] if isinstance(content, Mapping) and holders else content
    if not isinstance(state, Mapping) or not state:
        raise _refused(path, f"holds no state dict but a {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _refused(path, f"holds no state dict: {name!r} is a {type(tensor).__name__}")
    return {name: tensor.detach() for name, tensor in state.items()}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the weight file {path} {why}.", **_expected(path))


def _expected(path: Path) -> dict[str, Any]:
    return {
        "asked": path,
        "resolved": f"a state dict, bare or under {', '.join(STATE_KEYS)}",
        "todo": "download it again, or store its state dict with safetensors.torch.save_file",
    }
