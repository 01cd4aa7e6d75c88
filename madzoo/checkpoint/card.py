"""The model card: README.md as a pure function of its folder, hand-written prose kept byte for byte."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from madzoo.checkpoint.card_blocks import BLOCKS, HEADINGS
from madzoo.checkpoint.card_front_matter import HUB_METRICS, front_matter, to_yaml
from madzoo.checkpoint.card_records import read_records
from madzoo.checkpoint.weights import atomic_path
from madzoo.errors import CheckpointError, nearest

__all__ = ["CARD_FILE", "check_card", "render_card", "render_eval_results", "write_card"]

CARD_FILE = "README.md"
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)^---\r?\n", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"<!-- madzoo:begin (\S+) -->.*?<!-- madzoo:end \1 -->", re.DOTALL)
MARKER = re.compile(r"<!-- madzoo:(?:begin|end)\b")


def render_card(folder: Path | str) -> str:
    """Returns the text of README.md for a checkpoint folder.

    Front matter and blocks between ``<!-- madzoo:begin NAME -->`` and ``<!-- madzoo:end NAME -->`` are written anew;
    everything else of a present README.md is kept as it is, and so are front matter keys that madzoo does not write.
    A block that the file lacks is added at its end.

    Raises:
        CheckpointError: when a file of the folder is damaged, a report is not about these weights, the markers of the
            present card are unbalanced, or its front matter is no YAML mapping.
    """
    records = read_records(folder)
    present = _read_card(records.path)
    by_hand, body = _split(present, records.path)
    blocks = {name: _block(name, render(records)) for name, render in BLOCKS.items()}
    if present is None:
        body = f"\n# {records.name}\n"
    return f"---\n{to_yaml(front_matter(records, by_hand=by_hand))}---\n{_fill(body, blocks, records.path)}"


def write_card(folder: Path | str) -> Path:
    """Renders README.md and ``.eval_results/*.yaml`` into the folder; returns the card's path.

    Raises:
        CheckpointError: as :func:`render_card`, or when the folder cannot be written.
    """
    text, results = render_card(folder), render_eval_results(folder)
    card = Path(folder) / CARD_FILE
    for path in set(_present_results(folder)) - {Path(folder) / name for name in results}:
        path.unlink()
    for name, content in results.items():
        _write(Path(folder) / name, content)
    _write(card, text)
    return card


def check_card(folder: Path | str) -> None:
    """Checks, offline and without the data, that a folder's hashes agree and that its card is what it renders to.

    Raises:
        CheckpointError: when they do not, naming each file that differs.
    """
    text, results = render_card(folder), render_eval_results(folder)
    path = Path(folder)
    wrong = [] if _read_card(path) == text else [CARD_FILE]
    wrong += [name for name, content in results.items() if _read_text(path / name) != content]
    wrong += [
        str(extra.relative_to(path))
        for extra in set(_present_results(path))
        if str(extra.relative_to(path)) not in results
    ]
    if wrong:
        raise CheckpointError(
            f"{', '.join(wrong)} of {path} is not what the folder renders to.",
            asked=f"the card of {path.name}",
            todo=f"madzoo card {path}",
        )


def render_eval_results(folder: Path | str) -> dict[str, str]:
    """Returns the Hub's evaluation-results files, ``.eval_results/<data set>.yaml`` -> text.

    Only rows whose data set has an address on the Hub (``settings["hub_id"]``) have one.

    Raises:
        CheckpointError: as :func:`render_card`.
    """
    records = read_records(folder)
    files: dict[str, list[EvalResultEntry]] = {}
    for row in records.evaluation.rows if records.evaluation else ():
        if hub_id := row.settings.get("hub_id"):
            entries = files.setdefault(f".eval_results/{row.dataset}.yaml", [])
            notes = f"{row.split}, n={row.n}, madzoo evaluate {records.name} {row.dataset}"
            for name, value in row.metrics.items():
                task = HUB_METRICS.get(name, name)
                entries.append(
                    EvalResultEntry(dataset_id=hub_id, task_id=task, value=float(f"{value:.6g}"), notes=notes)
                )
    return {name: _dump(eval_result_entries_to_yaml(entries)) for name, entries in files.items()}


def _fill(body: str, blocks: Mapping[str, str], path: Path) -> str:
    found = [match[1] for match in BLOCK.finditer(body)]
    unknown = [name for name in found if name not in blocks]
    if 2 * len(found) != len(MARKER.findall(body)) or len(set(found)) != len(found) or unknown:
        guess = nearest(unknown[0], blocks) if unknown else None
        raise CheckpointError(
            f"the markers of {path / CARD_FILE} are unbalanced, repeated or unknown.",
            asked=f"blocks {', '.join(found) or 'none'}",
            looked=f"the blocks of a card: {', '.join(blocks)}",
            todo=guess or "pair each <!-- madzoo:begin NAME --> with its <!-- madzoo:end NAME -->",
        )
    body = BLOCK.sub(lambda match: blocks[match[1]], body)
    for name, text in blocks.items():
        if name not in found:
            heading = f"## {HEADINGS[name]}\n\n" if HEADINGS[name] else ""
            body = f"{body}{'' if body.endswith(chr(10)) else chr(10)}\n{heading}{text}\n"
    return body


def _block(name: str, text: str) -> str:
    return f"<!-- madzoo:begin {name} -->\n{text}\n<!-- madzoo:end {name} -->"


def _split(present: str | None, path: Path) -> tuple[Mapping[str, Any], str]:
    match = FRONT_MATTER.match(present or "")
    if match is None:
        return {}, present or ""
    try:
        values = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise CheckpointError(f"the front matter of {path / CARD_FILE} is no YAML: {error}.", asked=path) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the front matter of {path / CARD_FILE} is no mapping.", asked=path)
    return values, present[match.end() :] if present else ""


def _present_results(folder: Path | str) -> list[Path]:
    return sorted((Path(folder) / ".eval_results").glob("*.yaml"))


def _read_card(path: Path) -> str | None:
    return _read_text(path / CARD_FILE)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")  # bytes: line ends of the prose are kept as they are
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", asked=path) from error


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def _dump(values: list[dict[str, Any]]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=2**16)
