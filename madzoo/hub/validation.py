"""Is a folder fit to be published? Everything that is wrong with it at once, before a byte leaves the machine."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard

from madzoo.checkpoint.card import CARD_FILE, check_card
from madzoo.checkpoint.folder import GOLDEN_FILE, read_folder
from madzoo.checkpoint.resolve import LOCAL
from madzoo.errors import CheckpointError, MadzooError
from madzoo.factory import create_model
from madzoo.hub.files import LocalFile, find_file_problems, list_files

__all__ = ["CheckedFolder", "check_folder", "find_problems"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedFolder:
    """Holds what is known of a folder that passed every check.

    Attributes:
        path: the folder.
        name: its ``arch.tag``.
        files: with the hashes they had when they were checked.
    """

    path: Path
    name: str
    files: tuple[LocalFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def check_folder(folder: Path | str) -> CheckedFolder:
    """Checks that a checkpoint folder may be published.

    Its configuration is of a known schema; config.json, reports and card are about the same weights; the card is what
    the folder renders to, with a licence; the golden input is replayed; no file holds a secret or an absolute path; and
    nothing is there that the format does not know: no pickle, no code, no link to the outside.

    Raises:
        CheckpointError: listing all that is wrong.

    Cost: every file is read twice, and the model answers its golden input once.
    """
    path = Path(folder)
    checkpoint = read_folder(path)
    if problems := find_problems(path):
        listed = "".join(f"\n  - {problem}" for problem in problems)
        count = f"{len(problems)} things are" if len(problems) > 1 else "one thing is"
        raise CheckpointError(f"{path} is not fit to be published; {count} wrong:{listed}", todo="mend it, push again")
    return CheckedFolder(path=path, name=checkpoint.config.architecture, files=list_files(path))


def find_problems(folder: Path | str) -> tuple[str, ...]:
    """Returns what keeps a checkpoint folder from being published, one sentence each; empty when nothing does.

    Raises:
        CheckpointError: when it is no checkpoint folder at all.
    """
    path = Path(folder)
    read_folder(path)
    checks: tuple[Callable[[Path], Iterator[str]], ...] = (
        find_file_problems,
        _find_card_problems,
        _find_front_matter_problems,
        _find_model_problems,
    )
    return tuple(dict.fromkeys(problem for check in checks for problem in _told(check, path)))


def _told(check: Callable[[Path], Iterator[str]], path: Path) -> Iterator[str]:
    try:
        yield from check(path)
    except MadzooError as error:
        yield _one_line(error)


def _one_line(error: MadzooError) -> str:
    why, *answers = [" ".join(line.split()) for line in str(error).splitlines()]
    return f"{why} ({'; '.join(answers)})" if answers else why


def _find_card_problems(path: Path) -> Iterator[str]:
    """Compares hashes and rendering; see :func:`madzoo.checkpoint.card.check_card`."""
    check_card(path)
    yield from ()


def _find_front_matter_problems(path: Path) -> Iterator[str]:
    if not read_folder(path).config.pretrained_cfg.get("license"):
        yield "config.json names no licence of the weights (pretrained_cfg.license)"
    try:
        text = (path / CARD_FILE).read_bytes().decode("utf-8")
        data = ModelCard(text).data.to_dict()
    except FileNotFoundError:
        yield f"{CARD_FILE} is missing: madzoo card {path}"
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield f"the front matter of {CARD_FILE} cannot be loaded: {' '.join(str(error).split())}"
    else:
        if not data.get("license"):
            yield f"the front matter of {CARD_FILE} names no licence"
        yield from (f"the front matter of {CARD_FILE} holds {key}: {why}" for key, why in _odd_values(data))


def _odd_values(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields values that other readers of YAML and JSON cannot take."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _odd_values(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _odd_values(inner, key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"{value}, which is no number"
    elif not isinstance(value, (str, int, float, type(None))):
        yield key, f"a {type(value).__name__}, which JSON does not have"


def _find_model_problems(path: Path) -> Iterator[str]:
    has_golden = (path / GOLDEN_FILE).is_file()
    if not has_golden:
        yield f"{GOLDEN_FILE} is missing, so that nobody can check what the weights answer"
    with torch.random.fork_rng(devices=[]):
        create_model(f"{LOCAL}{path}", verify=has_golden)
