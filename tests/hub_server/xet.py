"""The Hub's other transfer, xet: tokens that point to hf_xet's own simulator of a store, a folder on disk."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_server.files import found
from hub_server.server import HubServer
from hub_server.users import check_writer

HOUR, TOKEN = 3600, "xet_test"


def xet_routes(hub: HubServer) -> list[Route]:
    async def token(request: Request) -> Response:
        repo = found(hub, request, content=True)
        if request.path_params["kind"] == "write":
            check_writer(request, repo.namespace)
        hub.xet_folder.mkdir(parents=True, exist_ok=True)
        address, expiry = f"local://{hub.xet_folder}", int(time.time()) + HOUR
        headers = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": TOKEN, "X-Xet-Token-Expiration": str(expiry)}
        # The Python client reads the headers, hf_xet itself the body.
        return JSONResponse({"casUrl": address, "accessToken": TOKEN, "exp": expiry}, headers=headers)

    return [Route("/api/models/{org}/{name}/xet-{kind}-token/{revision:path}", token)] if hub.xet else []
