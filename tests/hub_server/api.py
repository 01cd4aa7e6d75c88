"""What the Hub tells about repositories, and how they are made, named and removed."""

from urllib.parse import parse_qs

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_server.files import commit_of, found
from hub_server.server import HubServer
from hub_server.telling import model_record, read_card, tree_record
from hub_server.users import ORGANISATIONS, RefusalError, check_writer, owns, who


def api_routes(hub: HubServer) -> list[Route]:
    return [*account_routes(hub), *repository_routes(hub), *reading_routes(hub), *reference_routes(hub)]


def account_routes(hub: HubServer) -> list[Route]:
    async def whoami(request: Request) -> Response:
        if (user := who(request)) is None:
            raise RefusalError(401, message="Invalid username or password.")
        orgs = [{"type": "org", "name": org, "fullname": org} for org in ORGANISATIONS[user]]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return JSONResponse({"type": "user", "name": user, "fullname": user, "orgs": orgs, "auth": auth})

    async def validate(request: Request) -> Response:
        problem = card_problem((await request.json())["content"])
        told = {"errors": [{"message": problem}] if problem else [], "warnings": []}
        return JSONResponse(told, status_code=400 if problem else 200)

    return [Route("/api/whoami-v2", whoami), Route("/api/validate-yaml", validate, methods=["POST"])]


def card_problem(content: str) -> str | None:
    """Returns what the Hub would object to in a card, or None."""
    try:
        card = read_card(content)
    except yaml.YAMLError as error:
        return f"YAML metadata is invalid: {error}"
    if "license" in card and not isinstance(card["license"], str):
        return '"license" must be a string'
    return None if isinstance(card.get("tags", []), list) else '"tags" must be an array'


def repository_routes(hub: HubServer) -> list[Route]:
    async def create(request: Request) -> Response:
        asked = await request.json()
        user = who(request)
        namespace = asked.get("organization") or user or ""
        check_writer(request, namespace)
        repo_id = f"{namespace}/{asked['name']}"
        url = f"{hub.url}/{repo_id}"
        if hub.store.repository(repo_id) is not None:
            message = "You already created this model repo"
            return JSONResponse({"error": message, "url": url}, status_code=409, headers={"X-Error-Message": message})
        repo = hub.create(repo_id, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        repo.commit({".gitattributes": hub.store.enter(".gitattributes", b"*.safetensors filter=lfs\n")}, branch="main")
        return JSONResponse({"url": url, "name": repo_id, "id": repo_id})

    async def delete(request: Request) -> Response:
        asked = await request.json()
        namespace = asked.get("organization") or who(request) or ""
        check_writer(request, namespace)
        if (repo := hub.store.repository(f"{namespace}/{asked['name']}")) is None:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        repo.remove()
        return Response("OK")

    async def settings(request: Request) -> Response:
        repo = found(hub, request)
        check_writer(request, repo.namespace)
        asked = await request.json()
        repo.write(private=bool(asked.get("private", repo.private)), gated=bool(asked.get("gated", repo.gated)))
        return JSONResponse({"private": repo.private})

    return [
        Route("/api/repos/create", create, methods=["POST"]),
        Route("/api/repos/delete", delete, methods=["DELETE"]),
        Route("/api/models/{org}/{name}/settings", settings, methods=["PUT"]),
    ]


def reading_routes(hub: HubServer) -> list[Route]:
    async def info(request: Request) -> Response:
        repo = found(hub, request)
        return JSONResponse(model_record(repo, commit_of(repo, request.path_params.get("revision", "main"))))

    async def models(request: Request) -> Response:
        return list_models(hub, request)

    async def tree(request: Request) -> Response:
        repo = found(hub, request)
        files = repo.files(commit_of(repo, request.path_params["revision"]))
        under = request.path_params.get("path", "")
        chosen = {name: entry for name, entry in files.items() if not under or name.startswith(f"{under}/")}
        if under and not chosen:
            raise RefusalError(404, "EntryNotFound", f"{under} does not exist")
        deep = request.query_params.get("recursive", "").lower() in ("1", "true")
        return JSONResponse(tree_record(chosen, under=under, deep=deep))

    async def paths(request: Request) -> Response:
        repo = found(hub, request)
        files = repo.files(commit_of(repo, request.path_params["revision"]))
        if "json" in request.headers.get("content-type", ""):
            wanted = (await request.json())["paths"]
        else:
            wanted = parse_qs((await request.body()).decode())["paths"]
        return JSONResponse(tree_record({name: files[name] for name in wanted if name in files}, under="", deep=True))

    return [
        Route("/api/models", models),
        Route("/api/models/{org}/{name}", info),
        Route("/api/models/{org}/{name}/revision/{revision:path}", info),
        Route("/api/models/{org}/{name}/tree/{revision}", tree),
        Route("/api/models/{org}/{name}/tree/{revision}/{path:path}", tree),
        Route("/api/models/{org}/{name}/paths-info/{revision:path}", paths, methods=["POST"]),
    ]


def list_models(hub: HubServer, request: Request) -> Response:
    """Answers with one page of the models that fit every question asked, and the address of the next page."""
    asked, user = request.query_params, who(request)
    visible = [repo for repo in hub.store.repositories() if repo.find("main") and not hidden(repo, user)]
    records = [model_record(repo, str(repo.find("main"))) for repo in visible]
    fits = [record for record in records if is_wanted(record, request)]
    size = min(int(asked.get("limit", hub.page_size)), hub.page_size)
    start = int(asked.get("cursor", 0))
    headers = {}
    if start + size < len(fits):
        headers["Link"] = f'<{request.url.include_query_params(cursor=start + size)}>; rel="next"'
    return JSONResponse(fits[start : start + size], headers=headers)


def hidden(repo, user: str | None) -> bool:
    return repo.private and not owns(user, repo.namespace)


def is_wanted(record: dict, request: Request) -> bool:
    asked = request.query_params
    tags = [tag for entry in asked.getlist("filter") for tag in entry.split(",")]
    return (
        all(tag in record["tags"] for tag in tags)
        and asked.get("author", record["author"]) == record["author"]
        and asked.get("search", "").lower() in record["id"].lower()
        and asked.get("pipeline_tag", record["pipeline_tag"]) == record["pipeline_tag"]
    )


def reference_routes(hub: HubServer) -> list[Route]:
    async def refs(request: Request) -> Response:
        held = found(hub, request).read()
        told = {
            kind: [{"name": n, "ref": f"refs/{short}/{n}", "targetCommit": c} for n, c in held[kind].items()]
            for kind, short in (("branches", "heads"), ("tags", "tags"))
        }
        return JSONResponse(told | {"converts": [], "pullRequests": []})

    async def tag(request: Request) -> Response:
        repo = found(hub, request)
        check_writer(request, repo.namespace)
        tags, revision = repo.read()["tags"], request.path_params["revision"]
        if request.method == "DELETE":
            if tags.pop(revision, None) is None:
                raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            name, commit = (await request.json())["tag"], commit_of(repo, revision)
            if name in tags:
                raise RefusalError(409, message=f"Tag reference exists already: {name}")
            tags[name] = commit
        repo.write(tags=tags)
        return JSONResponse({})

    async def branch(request: Request) -> Response:
        repo = found(hub, request)
        check_writer(request, repo.namespace)
        branches, name = repo.read()["branches"], request.path_params["branch"]
        if request.method == "DELETE":
            if branches.pop(name, None) is None:
                raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {name}")
        else:
            if name in branches:
                raise RefusalError(409, message=f"Reference already exists: {name}")
            asked = await request.json() if await request.body() else {}
            branches[name] = commit_of(repo, asked.get("startingPoint") or "main")
        repo.write(branches=branches)
        return JSONResponse({})

    return [
        Route("/api/models/{org}/{name}/refs", refs),
        Route("/api/models/{org}/{name}/tag/{revision:path}", tag, methods=["POST", "DELETE"]),
        Route("/api/models/{org}/{name}/branch/{branch:path}", branch, methods=["POST", "DELETE"]),
    ]
