"""The checkpoint folder: one format in the repository, in the wheel, in the cache and on the Hub."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from madzoo.checkpoint.golden import write_golden
from madzoo.checkpoint.packed import PACKING_KEY, check_packing, packing_head
from madzoo.checkpoint.weights import atomic_path, write_weights
from madzoo.errors import CheckpointError, nearest

__all__ = [
    "CONFIG_FILE",
    "GOLDEN_FILE",
    "SCHEMA",
    "WEIGHTS_FILE",
    "Checkpoint",
    "CheckpointConfig",
    "bundled_root",
    "find_bundled",
    "madzoo_version",
    "read_folder",
    "write_folder",
]

SCHEMA = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GOLDEN_FILE = "golden.safetensors"
PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Holds ``config.json``: what to build, and what its weights are.

    Attributes:
        schema: version of this layout.
        architecture: ``arch`` or ``arch.tag``; the tag need not be registered.
        model_args: configuration fields in which the model differs from the architecture's own.
        pretrained_cfg: fields of ``madzoo.registry.PretrainedCfg``; ``sha256`` is that of ``model.safetensors``.
        quantization: how the weights are packed, see :class:`madzoo.checkpoint.packed.Packing`; None: not packed.
        madzoo_version: which version wrote the folder.
    """

    schema: int
    architecture: str
    model_args: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    quantization: Mapping[str, Any] | None
    madzoo_version: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, path: object = None) -> "CheckpointConfig":
        """Builds from JSON values.

        Raises:
            CheckpointError: on a newer schema, or a missing, unknown or ill-typed key.
        """
        _check_schema(values, path)
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise _bad_config(path, f"has the unknown key {key!r}", todo=nearest(str(key), known))
        for key, kinds in _KINDS.items():
            if key not in values or not isinstance(values[key], kinds):
                found = repr(values[key]) if key in values else "nothing"
                raise _bad_config(path, f"has no usable {key!r}: {found}")
        check_packing(values["quantization"], path=path)
        return cls(**values)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "architecture": str,
    "model_args": dict,
    "pretrained_cfg": dict,
    "quantization": (dict, type(None)),
    "madzoo_version": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Names a checkpoint folder on disk and holds its configuration.

    Attributes:
        path: the folder.
        config: its ``config.json``.
    """

    path: Path
    config: CheckpointConfig

    @property
    def weights_path(self) -> Path:
        """The weight file."""
        return self.path / WEIGHTS_FILE

    @property
    def golden_path(self) -> Path:
        """The golden tensors; the file need not exist."""
        return self.path / GOLDEN_FILE

    @property
    def sha256(self) -> str | None:
        """What the weight file must hash to, or None where the folder does not say."""
        return self.config.pretrained_cfg.get("sha256")


def read_folder(path: Path | str) -> Checkpoint:
    """Reads the configuration of a checkpoint folder; the weights stay on disk, unverified until they are read.

    Raises:
        CheckpointError: when there is no such folder, or its ``config.json`` is missing, damaged or of a newer schema.
    """
    path = Path(path)
    file = path / CONFIG_FILE
    if not os.path.isdir(path):
        raise CheckpointError("there is no such checkpoint folder.", asked=path, todo="the path of a folder")
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise _bad_config(file, "is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_config(file, f"is no readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise _bad_config(file, f"holds a {type(values).__name__}")
    return Checkpoint(path=path, config=CheckpointConfig.from_dict(values, path=file))


def write_folder(
    path: Path | str,
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any],
    state: Mapping[str, Tensor],
    golden: tuple[Tensor, Tensor] | None = None,
    packing: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Writes weights, golden tensors and configuration; other files of the folder are left as they are.

    Each file is replaced atomically, ``config.json`` last: a new folder counts as a checkpoint only once it is whole,
    and one killed while being rewritten is refused, because its configuration holds the sha256 of its weights.

    Args:
        path: the folder, made when absent.
        architecture: ``arch`` or ``arch.tag``.
        model_args: configuration fields in which the model differs from the architecture's own.
        pretrained_cfg: fields of ``madzoo.registry.PretrainedCfg``; ``sha256`` is filled in.
        state: the model's state dict.
        golden: a fixed input and the model's output in evaluation mode; None removes an older pair.
        packing: the manifest of packed weights, which the weight file then holds; ``state`` is what it describes.

    Raises:
        CheckpointError: when a value is no plain JSON, or the folder cannot be written.
    """
    path = Path(path)
    _check_plain(path, {"architecture": architecture, "model_args": model_args, "pretrained_cfg": pretrained_cfg})
    held = {} if packing is None else {PACKING_KEY: json.dumps(packing, separators=(",", ":"), allow_nan=False)}
    sha256 = write_weights(path / WEIGHTS_FILE, state, metadata={"architecture": architecture, **held})
    if golden is None:
        (path / GOLDEN_FILE).unlink(missing_ok=True)
    else:
        write_golden(path / GOLDEN_FILE, *golden, weights_sha256=sha256)
    config = CheckpointConfig(
        schema=SCHEMA,
        architecture=architecture,
        model_args=dict(model_args),
        pretrained_cfg={**pretrained_cfg, "sha256": sha256},
        quantization=packing_head(packing),
        madzoo_version=madzoo_version(),
    )
    with atomic_path(path / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return read_folder(path)


def bundled_root() -> Path:
    """Returns where bundled folders lie: inside an installed package, or beside it in an editable checkout."""
    installed = PACKAGE / "model_cards"
    return installed if installed.is_dir() else PACKAGE.parent / "model_cards"


def find_bundled(full_name: str) -> Path | None:
    """Returns the bundled folder of ``arch.tag``, or None where there is none."""
    folder = bundled_root() / full_name
    is_plain_name = folder.name == full_name
    return folder if is_plain_name and os.path.isfile(folder / CONFIG_FILE) else None


def madzoo_version() -> str:
    """Returns the installed version, or ``"source"`` where madzoo runs from a tree that was never installed."""
    try:
        return version("madzoo")
    except PackageNotFoundError:
        return "source"


def _check_schema(values: Mapping[str, Any], path: object) -> None:
    schema = values.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise _bad_config(path, f"has schema {schema!r}; madzoo's is {SCHEMA}")
    if schema > SCHEMA:
        raise _bad_config(path, f"has schema {schema}; this madzoo reads {SCHEMA}", todo="upgrade madzoo")


def _check_plain(path: Path, values: Mapping[str, Any]) -> None:
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"config.json holds plain JSON only: {error}.", asked=path, todo="numbers, strings, lists and dicts"
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _bad_config(path: object, why: str, *, todo: str | None = None) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}.",
        asked=path,
        resolved=f"madzoo's config.json: {', '.join(f.name for f in fields(CheckpointConfig))}",
        todo=todo or "a folder that madzoo wrote; models of timm load as timm/<name>",
    )
