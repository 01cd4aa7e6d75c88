"""How files reach the Hub: what is asked before, the large ones, and the commit."""

import base64
import hashlib
import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_server.files import commit_of, found
from hub_server.server import HubServer
from hub_server.store import TEXT, Entry, Repository
from hub_server.users import RefusalError, check_writer

TRANSFER = "basic"


def git_routes(hub: HubServer) -> list[Route]:
    return [*large_routes(hub), *commit_routes(hub)]


def large_routes(hub: HubServer) -> list[Route]:
    async def batch(request: Request) -> Response:
        repo = found(hub, request)
        check_writer(request, repo.namespace)
        objects = (await request.json())["objects"]
        return JSONResponse({"transfer": TRANSFER, "objects": [offer(hub, repo, asked) for asked in objects]})

    async def put(request: Request) -> Response:
        content, sha256 = await request.body(), request.path_params["sha256"]
        if hashlib.sha256(content).hexdigest() != sha256:
            return Response(status_code=400)
        hub.store.keep(content)
        return Response(status_code=200)

    async def verify(request: Request) -> Response:
        asked = await request.json()
        path = hub.store.blob(asked["oid"])
        is_here = path.is_file() and path.stat().st_size == asked["size"]
        return Response(status_code=200 if is_here else 404)

    return [
        Route("/{org}/{name}.git/info/lfs/objects/batch", batch, methods=["POST"]),
        Route("/{org}/{name}.git/info/lfs/verify", verify, methods=["POST"]),
        Route("/lfs-upload/{sha256}", put, methods=["PUT"]),
    ]


def offer(hub: HubServer, repo: Repository, asked: dict) -> dict:
    """Says where a large file may be sent; nowhere when its content is here already."""
    told = {"oid": asked["oid"], "size": asked["size"]}
    if hub.store.blob(asked["oid"]).is_file():
        return told
    upload = {"href": f"{hub.cdn}/lfs-upload/{asked['oid']}", "header": {}}
    verify = {"href": f"{hub.url}/{repo.id}.git/info/lfs/verify", "header": {}}
    return told | {"actions": {"upload": upload, "verify": verify}}


def commit_routes(hub: HubServer) -> list[Route]:
    async def preupload(request: Request) -> Response:
        repo = found(hub, request)
        check_writer(request, repo.namespace)
        held = repo.files(commit_of(repo, request.path_params["revision"]))
        files = (await request.json())["files"]
        return JSONResponse({"files": [mode(file["path"], held.get(file["path"])) for file in files]})

    async def commit(request: Request) -> Response:
        repo, branch = found(hub, request), request.path_params["revision"]
        check_writer(request, repo.namespace)
        head = commit_of(repo, branch)
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent not in (None, head):
            raise RefusalError(412, message="A commit has happened since. Please refresh and try again.")
        oid = repo.commit(changed(hub, repo.files(head), lines), branch=branch)
        url = f"{hub.url}/{repo.id}/commit/{oid}"
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    return [
        Route("/api/models/{org}/{name}/preupload/{revision:path}", preupload, methods=["POST"]),
        Route("/api/models/{org}/{name}/commit/{revision:path}", commit, methods=["POST"]),
    ]


def mode(path: str, entry: Entry | None) -> dict:
    told = {"path": path, "uploadMode": "regular" if path.endswith(TEXT) else "lfs", "shouldIgnore": False}
    return told | ({"oid": entry.etag} if entry else {})


def changed(hub: HubServer, files: dict[str, Entry], lines: list[dict]) -> dict[str, Entry]:
    """Returns the files of a commit after the changes that the lines of a request ask for."""
    files = dict(files)
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            content = base64.b64decode(value["content"])
            entry = hub.store.enter(value["path"], content)
            files[value["path"]] = Entry(entry.sha256, entry.git_sha1, entry.size, lfs=False)
        elif line["key"] == "lfsFile":
            is_here = hub.store.blob(value["oid"]).is_file()
            if not is_here and not hub.xet:
                raise RefusalError(400, message=f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = hub.store.enter_lfs(value["oid"], None if is_here else int(value.get("size") or 0))
        elif line["key"] == "deletedFile":
            files.pop(value["path"], None)
        elif line["key"] == "deletedFolder":
            files = {name: entry for name, entry in files.items() if not name.startswith(value["path"])}
    return files
