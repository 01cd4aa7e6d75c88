"""What a Hub holds, on disk: every content once, by its sha256, and per repository its commits, branches and tags."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hub_server.hashes import git_sha1

TEXT = (".json", ".md", ".yaml", ".yml", ".csv", ".txt", ".py", ".gitattributes")


@dataclass(frozen=True)
class Entry:
    """One file of a commit; ``git_sha1`` names it where it is regular, ``sha256`` where it is a large (LFS) one."""

    sha256: str
    git_sha1: str
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1

    @property
    def as_lfs(self) -> dict[str, Any] | None:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return {"sha256": self.sha256, "size": self.size, "pointerSize": len(pointer)} if self.lfs else None


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step: a request being answered reads the old text or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


class Store:
    """Keeps contents and repositories in a folder."""

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def keep(self, content: bytes) -> str:
        """Stores a content and returns its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.blob(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return sha256

    def enter(self, name: str, content: bytes) -> Entry:
        """Stores a content under a name and returns its entry."""
        is_large = not name.endswith(TEXT)
        return Entry(self.keep(content), git_sha1(content), len(content), is_large)

    def enter_lfs(self, sha256: str, size: int | None = None) -> Entry:
        """Returns the entry of a large file; its content need not be here, when another store has it."""
        size = self.blob(sha256).stat().st_size if size is None else size
        return Entry(sha256, "0" * 40, size, lfs=True)

    def repository(self, repo_id: str) -> "Repository | None":
        repo = Repository(self, repo_id)
        return repo if repo.folder.is_dir() else None

    def create(self, repo_id: str, **settings: bool) -> "Repository":
        """Returns a repository, made with one empty commit when absent."""
        repo = Repository(self, repo_id)
        if not repo.folder.is_dir():
            (repo.folder / "commits").mkdir(parents=True)
            repo.write(private=False, gated=False, branches={}, tags={}, order=[])
        repo.write(**settings)
        return repo

    def repositories(self) -> list["Repository"]:
        folders = sorted((self.root / "repos").glob("*/*/"))
        return [Repository(self, f"{folder.parent.name}/{folder.name}") for folder in folders]

    def clear(self) -> None:
        for folder in ("repos", "blobs"):
            shutil.rmtree(self.root / folder, ignore_errors=True)


class Repository:
    """One repository, read from disk at every question; ``id`` is ``namespace/name``."""

    def __init__(self, store: Store, repo_id: str):
        self.store, self.id = store, repo_id
        self.namespace = repo_id.partition("/")[0]
        self.folder = store.root / "repos" / repo_id

    def read(self) -> dict[str, Any]:
        return json.loads((self.folder / "refs.json").read_text())

    def write(self, **changes: Any) -> None:
        file = self.folder / "refs.json"
        held = json.loads(file.read_text()) if file.exists() else {}
        replace_text(file, json.dumps(held | changes))

    @property
    def private(self) -> bool:
        return self.read()["private"]

    @property
    def gated(self) -> bool:
        return self.read()["gated"]

    def find(self, revision: str) -> str | None:
        """Returns the commit of a branch, tag or commit, or None."""
        held = self.read()
        commit = held["branches"].get(revision) or held["tags"].get(revision) or revision
        return commit if self.commit_file(commit).is_file() else None

    def commit_file(self, commit: str) -> Path:
        return self.folder / "commits" / f"{commit.replace('/', '-')}.json"

    def files(self, commit: str) -> dict[str, Entry]:
        return {name: Entry(**entry) for name, entry in json.loads(self.commit_file(commit).read_text()).items()}

    def content(self, commit: str, name: str) -> bytes:
        return self.store.blob(self.files(commit)[name].sha256).read_bytes()

    def commit(self, files: Mapping[str, Entry], *, branch: str) -> str:
        """Adds a commit that holds exactly these files, moves the branch to it and returns its hash."""
        held = self.read()
        listing = json.dumps({name: asdict(entry) for name, entry in sorted(files.items())})
        told = f"{self.id} {len(held['order'])} {listing}"
        commit = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        replace_text(self.commit_file(commit), listing)
        self.write(branches={**held["branches"], branch: commit}, order=[*held["order"], commit])
        return commit

    def remove(self) -> None:
        """Deletes the repository."""
        shutil.rmtree(self.folder)

    def rewrite(self, commit: str, name: str, content: bytes) -> None:
        """Changes history behind a commit hash, which no honest Hub does."""
        files = {**self.files(commit), name: self.store.enter(name, content)}
        self.commit_file(commit).write_text(json.dumps({key: asdict(entry) for key, entry in files.items()}))


class Files(MutableMapping[str, bytes]):
    """Shows the files of one commit as names and bytes; assignment rewrites history."""

    def __init__(self, repo: Repository, commit: str):
        self.repo, self.commit = repo, commit

    def __getitem__(self, name: str) -> bytes:
        return self.repo.content(self.commit, name)

    def __setitem__(self, name: str, content: bytes) -> None:
        self.repo.rewrite(self.commit, name, content)

    def __delitem__(self, name: str) -> None:
        raise TypeError("push a commit without the file instead")

    def __iter__(self) -> Iterator[str]:
        return iter(self.repo.files(self.commit))

    def __len__(self) -> int:
        return len(self.repo.files(self.commit))
