"""What a model name means and where its weights lie: pure text and local paths, never the network."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from madzoo.checkpoint.folder import WEIGHTS_FILE, bundled_root, find_bundled
from madzoo.errors import CheckpointError, ConfigError, UnknownModelError

__all__ = ["Location", "as_path", "check_flag", "locate_weights", "parse_name"]

HUB, LOCAL, TIMM = "hf-hub:", "local-dir:", "timm/"
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*", re.ASCII)
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Says where to look for a model or its weights.

    Attributes:
        kind: ``"registry"`` and ``"timm"`` (``name``), ``"bundled"`` and ``"local"`` (``path`` of a checkpoint
            folder), ``"hub"`` (``repo``, ``file``, ``revision``), ``"url"`` (``url``).
        name: a registered model name or a timm name.
        path: a checkpoint folder.
        repo, file, revision: a Hub repository, the weight file in it, and a branch, tag or commit; None: the default.
        url: an https release file.
        sha256: what the weight file must hash to; None: not known.
        pinned: True: the first pull fixes the commit for all later ones.
        looked: where the weights were not, for a message.
    """

    kind: str
    name: str | None = None
    path: Path | None = None
    repo: str = ""
    file: str = WEIGHTS_FILE
    revision: str | None = None
    url: str = ""
    sha256: str | None = None
    pinned: bool = False
    looked: tuple[str, ...] = ()


def parse_name(name: object, *, revision: str | None = None) -> Location:
    """Reads ``arch``, ``arch.tag``, ``hf-hub:org/repo[@revision]``, ``local-dir:path`` or ``timm/<timm name>``.

    Args:
        name: what the caller typed.
        revision: a Hub revision given beside the name.

    Raises:
        UnknownModelError: when it is none of these.
        ConfigError: on a malformed or contradictory revision, or one that the kind of name cannot have.
    """
    if not isinstance(name, str) or not name:
        raise UnknownModelError(
            "a model name is a non-empty string.", asked=f"{name!r} ({type(name).__name__})", todo=_EXAMPLES
        )
    check_revision(revision)
    if name.startswith(HUB):
        return _parse_hub(name, revision)
    if revision is not None and name.startswith((LOCAL, TIMM)):
        raise ConfigError("only weights on the Hub have a revision.", asked=f"{name} with revision={revision!r}")
    if name.startswith(LOCAL):
        return Location(kind="local", path=_folder(name))
    if name.startswith(TIMM):
        return Location(kind="timm", name=name.removeprefix(TIMM))
    if "/" in name or os.sep in name:
        raise UnknownModelError(
            "a bare path or repository is no model name.",
            asked=name,
            todo=f"{LOCAL}{name} for a checkpoint folder, {HUB}{name} for a Hub repository",
        )
    return Location(kind="registry", name=name, revision=revision)


def locate_weights(full_name: str, address: Mapping[str, Any], *, revision: str | None = None) -> Location:
    """Finds the weights of a registered ``arch.tag``: the bundled folder, else the Hub, else a release file.

    Args:
        full_name: ``arch.tag``.
        address: ``hub_id``, ``filename``, ``revision``, ``url`` and ``sha256`` of its ``PretrainedCfg``.
        revision: asked for by the caller; then only the Hub can answer.

    Raises:
        CheckpointError: when the weights are neither bundled nor published anywhere.
    """
    bundled = find_bundled(full_name) if revision is None else None
    if bundled is not None:
        return Location(kind="bundled", path=bundled, sha256=address["sha256"])
    looked = (f"bundled folder {bundled_root() / full_name}",)
    if address["hub_id"]:
        return _published(address, revision, looked)
    if address["url"] and revision is None:
        return Location(kind="url", url=check_url(address["url"]), sha256=address["sha256"], looked=looked)
    raise CheckpointError(
        f"the weights of {full_name} are neither bundled nor on the Hub.",
        asked=full_name if revision is None else f"{full_name} at revision {revision!r}",
        looked="; ".join(looked),
        todo="checkpoint_path=FILE for weights of your own, or pretrained=False for random ones",
    )


def as_path(label: str, value: object) -> Path | None:
    """Returns a path argument as a Path, ``~`` expanded; None stays None.

    Raises:
        ConfigError: when it is no path.
    """
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError(f"{label} is a path.", asked=f"{label}={value!r}")
    return Path(os.path.expanduser(text))


def check_flag(label: str, value: object, *, may_be_none: bool = False) -> None:
    """Refuses what is neither True nor False.

    Raises:
        ConfigError: naming the argument.
    """
    if not isinstance(value, bool) and not (may_be_none and value is None):
        raise ConfigError(f"{label} is True or False.", asked=f"{label}={value!r}")


def check_revision(revision: object) -> None:
    """Refuses what cannot be a branch, tag or commit.

    Raises:
        ConfigError: when it is neither None nor the name of one.
    """
    if revision is None:
        return
    if not isinstance(revision, str) or not REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigError("a revision is the name of a branch, tag or commit.", asked=f"revision={revision!r}")


def check_url(url: str) -> str:
    """Returns the address when its transport is trustworthy.

    Raises:
        CheckpointError: on anything but https (http is left to this machine itself).
    """
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if is_safe and Path(parts.path).name:
        return url
    raise CheckpointError("a release file has an https address that ends in its name.", asked=url)


_EXAMPLES = "madzoo.list_models() shows every name; also hf-hub:org/repo, local-dir:path, timm/name"


def _published(address: Mapping[str, Any], revision: str | None, looked: tuple[str, ...]) -> Location:
    is_registered = revision in (None, address["revision"])
    return Location(
        kind="hub",
        repo=address["hub_id"],
        file=address["filename"],
        revision=revision or address["revision"],
        sha256=address["sha256"] if is_registered else None,
        pinned=is_registered,
        looked=looked,
    )


def _parse_hub(name: str, revision: str | None) -> Location:
    repo, at, inline = name.removeprefix(HUB).partition("@")
    if not REPO.fullmatch(repo):
        raise UnknownModelError("a Hub repository is written org/repo.", asked=name, todo=f"{HUB}org/repo[@revision]")
    if at:
        check_revision(inline)
        if revision not in (None, inline):
            raise ConfigError("two different revisions.", asked=f"{name} with revision={revision!r}")
    return Location(kind="hub", repo=repo, revision=inline if at else revision)


def _folder(name: str) -> Path:
    text = name.removeprefix(LOCAL)
    if not text or "\0" in text:
        raise CheckpointError("there is no such checkpoint folder.", asked=repr(name), todo=f"{LOCAL}PATH")
    return Path(os.path.expanduser(text))
