"""Weight files that madzoo did not write: the authors' ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` and ``.safetensors``."""

import logging
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madzoo.checkpoint.guard import refusing
from madzoo.checkpoint.packed import read_packing
from madzoo.checkpoint.weights import read_metadata, read_weights, sha256_of
from madzoo.errors import CheckpointError

__all__ = ["read_foreign", "read_state"]

TRAINED_KEYS = ("model", "state_dict")
AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict")
PREFIXES = ("module.", "_orig_mod.", "backbone.")
SAFETENSORS = ".safetensors"
CONFIGURATION = "yacs.config.CfgNode"  # VMamba's files hold one
# What training scripts store beside the weights. None of it is needed, so none of it is built: each name stands for a
# box that takes what it is given and does nothing. A file that speaks of anything else is refused.
LEFT_CLOSED = (
    "argparse.Namespace",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    *(f"pathlib{part}.{name}" for part in ("", "._local") for name in ("PosixPath", "WindowsPath")),
)
STUMBLED = re.compile(r"(?:WeightsUnpickler error:\s*|(?=unsupported GLOBAL))(.+?)(?: by default)?\.?(?: Please |\n|$)")
Remap = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Unpack = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
logger = logging.getLogger(__name__)


class _Box:
    """Takes the place of an object that is of no interest."""

    def __init__(self, *_parts: object) -> None: ...

    def __new__(cls, *_parts: object) -> "_Box":
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Forgets."""


class _Drawer:
    """Takes the place of a dictionary of a foreign class, which torch fills only if it is one of its own."""

    def __new__(cls, *_parts: object) -> Any:
        return OrderedDict()


def read_state(
    path: Path,
    *,
    sha256: str | None = None,
    remap: Remap | None = None,
    use_ema: bool | None = None,
    unpack: Unpack | None = None,
) -> dict[str, Tensor]:
    """Reads a weight file of any kind; names in one that madzoo did not write go through ``remap``.

    Args:
        path: the file.
        sha256: what it must hash to; None: not known.
        remap: turns the authors' names and layouts into ours.
        use_ema: see :func:`read_foreign`; our own files hold one set of weights.
        unpack: ``(packed tensors, manifest) -> state dict``, of a file that holds packed weights; None returns its
            tensors as they are stored.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, not the one that was hashed, no state dict, or
            without the weights that ``use_ema`` asks for.
    """
    is_own = path.suffix == SAFETENSORS and "architecture" in read_metadata(path)
    if is_own and use_ema:
        raise _refused(path, "holds no averaged weights beside its own")
    if is_own:
        stored, manifest = read_weights(path, sha256=sha256), read_packing(path)
        return unpack(stored, manifest) if unpack and manifest is not None else stored
    state = read_foreign(path, sha256=sha256, use_ema=use_ema)
    return remap(state) if remap else state


def read_foreign(path: Path, *, sha256: str | None = None, use_ema: bool | None = None) -> dict[str, Tensor]:
    """Reads the state dict of an authors' file onto the CPU; pickles with ``weights_only=True`` alone.

    A dictionary under ``"model"`` or ``"state_dict"`` is taken out of its wrapping, one under ``"model_ema"``,
    ``"state_dict_ema"`` or ``"ema_state_dict"`` where there is no other: the weights that were trained go before their
    running average, as in the authors' own loaders. The prefixes that data parallelism, compilation and OpenMMLab's
    classifiers leave on every name are removed. What lies beside the weights (arguments, configurations, metrics) is
    never built.

    Args:
        path: the file.
        sha256: what it must hash to; None: not known.
        use_ema: True reads the running average, False the weights that were trained; None: what the rule above says.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, not the one that was hashed, no state dict, or
            without the weights that ``use_ema`` asks for.
    """
    if path.suffix == SAFETENSORS:
        content: object = read_weights(path, sha256=sha256)
    else:
        found = sha256_of(path) if sha256 else None
        if found != sha256:
            raise _refused(path, f"is not the file that was published: sha256 {found} instead of {sha256}")
        content = _unpickle(path)
    return _strip_prefixes(_check_state(_unwrap(content, path, use_ema), path))


def _unpickle(path: Path) -> object:
    with (
        refusing(CheckpointError, f"the weight file {path} cannot be read safely", **_expected(path)),
        warnings.catch_warnings(action="ignore"),  # of file versions that torch then either reads or refuses
        torch.serialization.safe_globals([*((_Box, name) for name in LEFT_CLOSED), (_Drawer, CONFIGURATION)]),
        torch.device("cpu"),
    ):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # torch begins with the advice to read the file unsafely; what it stumbled on stands behind that.
            stumbled = STUMBLED.search(str(error))
            raise _refused(path, f"cannot be read safely: {stumbled[1] if stumbled else 'no pickle'}") from error


def _unwrap(content: object, path: Path, use_ema: bool | None) -> object:
    if not isinstance(content, Mapping):
        return content
    trained, averaged = (
        next((key for key in keys if isinstance(content.get(key), Mapping)), None)
        for keys in (TRAINED_KEYS, AVERAGED_KEYS)
    )
    if (use_ema and not averaged) or (use_ema is False and averaged and not trained):
        kind = "averaged weights (use_ema=True)" if use_ema else "weights but averaged ones (use_ema=False)"
        raise _refused(path, f"holds no {kind}")
    if not trained and not averaged:
        return content
    key = averaged if use_ema or not trained else trained
    if trained and averaged and use_ema is None:
        logger.warning("%s holds %s and %s; %s is read (use_ema=True reads the other).", path, trained, averaged, key)
    inner = content[key]
    is_wrapped = any(isinstance(inner.get(name), Mapping) for name in TRAINED_KEYS)
    return _unwrap(inner, path, None) if is_wrapped else inner


def _check_state(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not state:
        raise _refused(path, f"holds no state dict but a {_kind(state)}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _refused(path, f"holds no state dict: {name!r} is a {_kind(tensor)}")
    return {name: tensor.detach() for name, tensor in state.items()}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def _kind(value: object) -> str:
    return "thing that is not read" if isinstance(value, _Box) else type(value).__name__


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the weight file {path} {why}.", **_expected(path))


def _expected(path: Path) -> dict[str, Any]:
    return {
        "asked": path,
        "resolved": f"a state dict, bare or under {', '.join(TRAINED_KEYS + AVERAGED_KEYS)}",
        "todo": "download it again, or store its state dict with safetensors.torch.save_file",
    }
