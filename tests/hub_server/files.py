"""Where files are read: the Hub's resolve addresses, the host of large files, and a release page."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hub_server.server import HubServer
from hub_server.store import Repository
from hub_server.users import RefusalError, check_reader


def found(hub: HubServer, request: Request, *, content: bool = False) -> Repository:
    """Returns the repository that a path names, where the one who asks may see it."""
    repo = hub.store.repository(f"{request.path_params['org']}/{request.path_params['name']}")
    if repo is None:
        raise RefusalError(404, "RepoNotFound", "Repository not found")
    check_reader(request, repo, content=content)
    return repo


def commit_of(repo: Repository, revision: str) -> str:
    """Returns the commit of a revision of a repository."""
    if (commit := repo.find(revision)) is None:
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def file_routes(hub: HubServer) -> list[Route]:
    async def resolve(request: Request) -> Response:
        repo = found(hub, request, content=True)
        commit, name = commit_of(repo, request.path_params["revision"]), request.path_params["file"]
        entry = repo.files(commit).get(name)
        if entry is None:
            raise RefusalError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not entry.lfs:
            return send_body(request, repo.content(commit, name), headers | {"ETag": f'"{entry.git_sha1}"'})
        headers |= {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if entry.sha256 in hub.xet_hashes:
            headers["X-Xet-Hash"] = hub.xet_hashes[entry.sha256]
            headers["X-Xet-Refresh-Route"] = f"{hub.url}/api/models/{repo.id}/xet-read-token/{commit}"
        headers["Location"] = f"{hub.cdn}/lfs/{repo.id}/{commit}/{name}"
        return Response(status_code=302, headers=headers)

    async def large(request: Request) -> Response:
        # The real host of large files takes a signed address in place of a token; here the path is enough.
        repo = hub.store.repository(f"{request.path_params['org']}/{request.path_params['name']}")
        if repo is None:
            return Response(status_code=404)
        entry = repo.files(request.path_params["commit"])[request.path_params["file"]]
        path = hub.store.blob(entry.sha256)
        return send_body(request, path.read_bytes(), {}) if path.is_file() else Response(status_code=404)

    async def release(request: Request) -> Response:
        content = hub.releases.get(request.path_params["file"])
        return Response(status_code=404) if content is None else send_body(request, content, {})

    both = ["GET", "HEAD"]
    return [
        Route("/{org}/{name}/resolve/{revision}/{file:path}", resolve, methods=both),
        Route("/lfs/{org}/{name}/{commit}/{file:path}", large, methods=both),
        Route("/release/{file:path}", release, methods=both),
    ]


def send_body(request: Request, content: bytes, headers: Mapping[str, str]) -> Response:
    """Answers with a content, or with the part of it that the Range header asks for."""
    span = request.headers.get("range", "").removeprefix("bytes=")
    if not span:
        return Response(content, headers={**headers, "Content-Length": str(len(content))})
    first, _, last = span.partition("-")
    start, end = (int(first), int(last or len(content) - 1)) if first else (len(content) - int(last), len(content) - 1)
    end = min(end, len(content) - 1)
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    told = {"Content-Range": f"bytes {start}-{end}/{len(content)}", "Content-Length": str(end - start + 1)}
    return Response(content[start : end + 1], status_code=206, headers={**headers, **told})
