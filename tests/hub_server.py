"""A small, real Hugging Face Hub on loopback: repositories, commits, branches, an LFS host, and faults on demand.

The Hub answers on 127.0.0.1 and sends large files to ``localhost``: another host name, as the real one does.
"""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

FAULTS = ("500", "503", "truncate", "corrupt", "drop")


@dataclass
class Fault:
    """Spoils the next ``times`` requests of a method whose path contains ``part``."""

    method: str
    part: str
    kind: str
    times: int


@dataclass
class HubServer:
    """Holds repositories and records every request as (method, path, Range header or None).

    ``tokens`` holds the beginnings of paths that were asked for with an Authorization header.
    """

    port: int
    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    releases: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The Hub's own address."""
        return f"http://127.0.0.1:{self.port}"

    def push(self, repo: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Adds a commit that holds exactly these files, moves the branch to it and returns its hash."""
        digest = hashlib.sha1(f"{repo}{branch}{len(self.commits)}".encode(), usedforsecurity=False)
        commit = digest.hexdigest()
        self.commits[repo, commit] = dict(files)
        self.branches[repo, branch] = commit
        return commit

    def fail(self, method: str, part: str, kind: str, *, times: int = 1) -> None:
        """Spoils the next requests: a status, a short body, a changed byte, or a connection dropped half-way."""
        assert kind in FAULTS
        self.faults.append(Fault(method, part, kind, times))

    def clear(self) -> None:
        """Forgets everything."""
        for held in (self.commits, self.branches, self.releases, self.faults, self.requests, self.tokens):
            held.clear()

    def seen(self, method: str, part: str) -> int:
        """Returns how many requests of a method had ``part`` in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)

    def find(self, repo: str, revision: str) -> str | None:
        """Returns the commit of a branch or commit, or None."""
        commit = self.branches.get((repo, revision), revision)
        return commit if (repo, commit) in self.commits else None

    def take_fault(self, request: Request) -> str | None:
        """Uses up the first fault that fits the request."""
        for fault in self.faults:
            if fault.method == request.method and fault.part in request.url.path and fault.times:
                fault.times -= 1
                return fault.kind
        return None


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Runs a Hub in a thread until the block ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    hub = HubServer(port=listener.getsockname()[1])
    config = uvicorn.Config(_app(hub), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def _app(hub: HubServer) -> Starlette:
    def record(request: Request) -> None:
        hub.requests.append((request.method, request.url.path, request.headers.get("range")))
        if "authorization" in request.headers:
            hub.tokens.add("/".join(request.url.path.split("/")[:4]))

    async def info(request: Request) -> Response:
        record(request)
        repo, revision = _repo(request), request.path_params.get("revision", "main")
        commit = hub.find(repo, revision)
        if commit is None:
            return _missing(hub, repo)
        siblings = [{"rfilename": name} for name in hub.commits[repo, commit]]
        return JSONResponse({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": []})

    async def resolve(request: Request) -> Response:
        record(request)
        fault = hub.take_fault(request)
        if fault in ("500", "503"):
            return Response(status_code=int(fault))
        repo, revision, file = _repo(request), request.path_params["revision"], request.path_params["file"]
        commit = hub.find(repo, revision)
        if commit is None:
            return _missing(hub, repo)
        content = hub.commits[repo, commit].get(file)
        if content is None:
            return _error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.endswith((".json", ".md")):
            return _body(request, content, headers | {"ETag": f'"{_git_sha1(content)}"'}, fault)
        sha256 = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        location = f"http://localhost:{hub.port}/lfs/{repo}/{commit}/{file}"
        return Response(status_code=302, headers=headers | linked | {"Location": location})

    async def lfs(request: Request) -> Response:
        record(request)
        fault = hub.take_fault(request)
        content = hub.commits[_repo(request), request.path_params["commit"]][request.path_params["file"]]
        return _body(request, content, {}, fault)

    async def release(request: Request) -> Response:
        record(request)
        fault = hub.take_fault(request)
        content = hub.releases.get(request.path_params["file"])
        return Response(status_code=404) if content is None else _body(request, content, {}, fault)

    both = ["GET", "HEAD"]
    return Starlette(
        routes=[
            Route("/api/models/{org}/{name}", info),
            Route("/api/models/{org}/{name}/revision/{revision}", info),
            Route("/{org}/{name}/resolve/{revision}/{file:path}", resolve, methods=both),
            Route("/lfs/{org}/{name}/{commit}/{file:path}", lfs, methods=both),
            Route("/release/{file:path}", release, methods=both),
        ]
    )


def _body(request: Request, content: bytes, headers: Mapping[str, str], fault: str | None) -> Response:
    if fault in ("500", "503"):
        return Response(status_code=int(fault))
    if fault == "truncate":
        content = content[: len(content) // 2]
    if fault == "corrupt":
        content = content[:-1] + bytes([content[-1] ^ 1])
    start = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
    span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
    status = 206 if start else 200
    headers = {**headers, **span, "Content-Length": str(len(content) - start)}
    if fault == "drop":
        half = content[start : (start + len(content)) // 2]
        return StreamingResponse(iter([half]), status_code=status, headers=headers)
    return Response(content[start:], status_code=status, headers=headers)


def _repo(request: Request) -> str:
    return f"{request.path_params['org']}/{request.path_params['name']}"


def _missing(hub: HubServer, repo: str) -> Response:
    is_known = any(name == repo for name, _ in hub.commits)
    return _error(404, "RevisionNotFound" if is_known else "RepoNotFound")


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Response:
    told = {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}
    return JSONResponse({"error": code}, status_code=status, headers=told)


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
