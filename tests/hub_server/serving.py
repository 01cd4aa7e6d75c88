"""Runs a Hub over real HTTP: in a thread of the tests, or alone with ``python -m hub_server FOLDER [PORT]``."""

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from hub_server.api import api_routes
from hub_server.faults import Faulty
from hub_server.files import file_routes
from hub_server.git import git_routes
from hub_server.server import HubServer
from hub_server.users import RefusalError
from hub_server.xet import xet_routes


def app_of(hub: HubServer) -> ASGIApp:
    """Returns the Hub as an ASGI app, with its faults around it."""
    routes = [*xet_routes(hub), *api_routes(hub), *git_routes(hub), *file_routes(hub)]

    async def refuse(request, error):
        return error.response

    return Faulty(Starlette(routes=routes, exception_handlers={RefusalError: refuse}), hub.take, hub.done)


def server_of(hub: HubServer) -> uvicorn.Server:
    """Returns the HTTP server of a Hub, not yet running."""
    settings = {"log_level": "critical", "lifespan": "off", "ws": "none", "http": "h11", "timeout_graceful_shutdown": 1}
    return uvicorn.Server(uvicorn.Config(app_of(hub), **settings))


@contextmanager
def serve_hub(*, xet: bool = False) -> Iterator[HubServer]:
    """Runs a Hub in a thread until the block ends; with ``xet`` large files travel by hf_xet's local store."""
    with tempfile.TemporaryDirectory(prefix="madzoo-hub-") as root, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        hub = HubServer(Path(root), port=listener.getsockname()[1], xet=xet)
        server = server_of(hub)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def serve_forever(root: Path, port: int) -> None:
    """Runs a Hub on a folder until it is stopped; it finds there what an earlier one left."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        hub = HubServer(root, port=listener.getsockname()[1])
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        server_of(hub).run(sockets=[listener])
