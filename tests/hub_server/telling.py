"""How the Hub describes a commit as JSON: what the card says, the files, and the tags that follow."""

from collections.abc import Mapping
from typing import Any

import yaml

from hub_server.store import Entry, Repository

STAMP = "2026-01-01T00:00:00.000Z"


def read_card(content: str) -> dict[str, Any]:
    """Returns the front matter of a card; empty where there is none."""
    if not content.startswith("---\n"):
        return {}
    card = yaml.safe_load(content.removeprefix("---\n").partition("\n---")[0])
    return card if isinstance(card, dict) else {}


def model_record(repo: Repository, commit: str) -> dict[str, Any]:
    """Returns what the Hub tells about one commit of a model."""
    files = repo.files(commit)
    card = read_card(repo.content(commit, "README.md").decode()) if "README.md" in files else {}
    evaluations = [
        {"filename": name, "data": entry}
        for name in files
        if name.startswith(".eval_results/")
        for entry in (yaml.safe_load(repo.content(commit, name)) or [])
    ]
    return {
        "_id": commit[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "createdAt": STAMP,
        "lastModified": STAMP,
        "tags": tags_of(card),
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
        "cardData": card,
        "model-index": card.get("model-index"),
        "evalResults": evaluations,
        "siblings": [sibling(name, entry) for name, entry in files.items()],
    }


def sibling(name: str, entry: Entry) -> dict[str, Any]:
    told = {"rfilename": name, "size": entry.size, "blobId": entry.git_sha1}
    return told | ({"lfs": entry.as_lfs} if entry.lfs else {})


def tags_of(card: Mapping[str, Any]) -> list[str]:
    """Returns the tags that can be filtered by."""
    plain = [*card.get("tags", []), card.get("library_name"), card.get("pipeline_tag")]
    named = [f"license:{card['license']}"] if "license" in card else []
    datasets = card.get("datasets") or []
    named += [f"dataset:{name}" for name in ([datasets] if isinstance(datasets, str) else datasets)]
    return [str(tag) for tag in dict.fromkeys([*plain, *named]) if tag is not None]


def tree_record(files: Mapping[str, Entry], *, under: str, deep: bool) -> list[dict[str, Any]]:
    """Returns the entries of a folder; those of its folders too when ``deep``."""
    folders, told = set(), []
    for name, entry in files.items():
        inner = name.removeprefix(f"{under}/") if under else name
        parts = inner.split("/")
        for depth in range(1, len(parts)) if deep else range(1, min(2, len(parts))):
            folders.add("/".join(([under] if under else []) + parts[:depth]))
        if deep or len(parts) == 1:
            lfs = {"lfs": {"oid": entry.sha256, **(entry.as_lfs or {})}} if entry.lfs else {}
            told.append({"type": "file", "path": name, "size": entry.size, "oid": entry.git_sha1, **lfs})
    return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)] + told
