"""What a test holds of a Hub: repositories to fill, faults to order, and the record of everything that was asked."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from starlette.types import Scope

from hub_server.faults import FAULTS, FOREVER, Fault, Hook
from hub_server.hashes import xet_hash
from hub_server.store import Files, Repository, Store


class Commits(Mapping[tuple[str, str], MutableMapping[str, bytes]]):
    """Shows every commit as ``commits[repo, commit]``: names and bytes."""

    def __init__(self, store: Store):
        self.store = store

    def __getitem__(self, key: tuple[str, str]) -> MutableMapping[str, bytes]:
        repo = self.store.repository(key[0])
        if repo is None or repo.find(key[1]) is None:
            raise KeyError(key)
        return Files(repo, str(repo.find(key[1])))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter((repo.id, commit) for repo in self.store.repositories() for commit in repo.read()["order"])

    def __len__(self) -> int:
        return len(list(iter(self)))


class HubServer:
    """Holds a Hub in a folder and records every request as (method, path, Range header or None).

    ``tokens`` holds the beginnings of paths that were asked for with an Authorization header, ``leaks`` the paths on
    the host of large files that were (there must be none), ``received`` the bytes of each body sent to the Hub.
    """

    def __init__(self, root: Path, *, port: int, xet: bool = False):
        self.store, self.port, self.xet = Store(root), port, xet
        self.xet_folder = root / "xet"
        self.xet_hashes: dict[str, str] = {}
        self.commits = Commits(self.store)
        self.releases: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.hooks: list[Hook] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self.received: list[tuple[str, str, int]] = []
        self.tokens: set[str] = set()
        self.leaks: set[str] = set()
        self.page_size = 1000

    @property
    def url(self) -> str:
        """The Hub's own address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """The address of large files: another host name."""
        return f"http://localhost:{self.port}"

    def create(self, repo: str, *, private: bool = False, gated: bool = False) -> Repository:
        """Makes a repository, or changes who may read it."""
        return self.store.create(repo, private=private, gated=gated)

    def push(self, repo: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Adds a commit that holds exactly these files, moves the branch to it and returns its hash."""
        with self.store.lock:
            held = self.store.create(repo)
            return held.commit({name: self._enter(name, content) for name, content in files.items()}, branch=branch)

    def _enter(self, name: str, content: bytes):
        entry = self.store.enter(name, content)
        if self.xet and entry.lfs:
            self.learn(entry.sha256, self.store.blob(entry.sha256))
        return entry

    def learn(self, sha256: str, path: Path) -> None:
        """Notes the xet hash of a content that came, or will come, by xet; the Hub itself never sees its bytes."""
        self.xet_hashes[sha256] = xet_hash(path)

    def branch(self, repo: str, name: str = "main") -> str | None:
        """Returns the commit of a branch, tag or commit, or None."""
        held = self.store.repository(repo)
        return held.find(name) if held else None

    def fail(
        self, method: str, part: str, kind: str, *, times: int | None = 1, delay: float = 0.05, chunk: int = 1024
    ) -> None:
        """Spoils the next requests (None: all) of a method whose path contains ``part``, as a ``Fault`` says."""
        assert kind in FAULTS
        self.faults.append(Fault(method, part, kind, FOREVER if times is None else times, delay, chunk))

    def after(self, method: str, part: str, action: Callable[[], object], *, nth: int = 1) -> None:
        """Acts after the nth request from now that fits was answered, for instance to push and so move a branch."""
        self.hooks.append(Hook(method, part, action, nth))

    def clear(self) -> None:
        """Forgets everything."""
        self.store.clear()
        for held in (
            self.releases, self.faults, self.hooks, self.requests, self.received, self.tokens, self.leaks,
            self.xet_hashes,
        ):  # fmt: skip
            held.clear()
        self.page_size = 1000

    def seen(self, method: str, part: str) -> int:
        """Returns how many requests of a method had ``part`` in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)

    def take(self, method: str, path: str, scope: Scope) -> Fault | None:
        """Records a request and uses up the first fault that fits it."""
        headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        self.requests.append((method, path, headers.get("range")))
        if method in ("PUT", "POST"):
            self.received.append((method, path, int(headers.get("content-length", 0))))
        if "authorization" in headers:
            self.tokens.add("/".join(path.split("/")[:4]))
            if headers.get("host", "").startswith("localhost"):
                self.leaks.add(path)
        for fault in self.faults:
            if fault.method == method and fault.part in path and fault.times:
                fault.times -= 1
                return fault
        return None

    def done(self, method: str, path: str) -> None:
        """Runs the hooks that are due."""
        for hook in list(self.hooks):
            if hook.method == method and hook.part in path:
                hook.nth -= 1
                if hook.nth == 0:
                    hook.action()
                    with suppress(ValueError):
                        self.hooks.remove(hook)
