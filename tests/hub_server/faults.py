"""What can go wrong between a Hub and who asks it: faults, as one ASGI layer around everything the Hub answers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATUS = ("429", "500", "502", "503", "504")
FAULTS = (*STATUS, "cut", "silent", "truncate", "corrupt", "drop", "stall", "slow", "html")
FOREVER = 10**9


@dataclass
class Fault:
    """Spoils the next ``times`` requests of a method whose path contains ``part``.

    ``"500"`` and other statuses answer with it; ``"cut"`` closes the connection before the first byte; ``"silent"``
    never answers; of a body, ``"truncate"`` sends half as if it were all, ``"corrupt"`` changes the last byte,
    ``"drop"`` closes the connection half-way, ``"stall"`` falls silent half-way, ``"slow"`` waits ``delay`` seconds
    before each ``chunk`` bytes, and ``"html"`` is the page of a captive portal.
    """

    method: str
    part: str
    kind: str
    times: int = 1
    delay: float = 0.05
    chunk: int = 1024


@dataclass
class Hook:
    """Acts once, after the answer to the ``nth`` request of a method whose path contains ``part``."""

    method: str
    part: str
    action: Callable[[], object]
    nth: int


class Faulty:
    """Passes requests on to an app, or spoils them; ``take`` uses up a fault and ``done`` runs hooks."""

    def __init__(self, app: ASGIApp, take: Callable[[str, str, Scope], Fault | None], done: Callable[[str, str], None]):
        self.app, self.take, self.done = app, take, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        fault = self.take(method, path, scope)
        if fault is None or (method == "HEAD" and fault.kind not in (*STATUS, "cut", "silent")):
            await self.app(scope, receive, send)
        elif fault.kind in STATUS:
            await _drain(receive)
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": int(fault.kind), "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif fault.kind == "cut":
            await _cut(send)
        elif fault.kind == "silent":
            await _wait_for_the_end(receive)
        else:
            await self.app(scope, receive, Spoiled(fault, send, receive))
        self.done(method, path)


class Spoiled:
    """Sends an app's answer with a spoiled body; an answer that is no success goes through as it is."""

    def __init__(self, fault: Fault, send: Send, receive: Receive):
        self.fault, self.send, self.receive = fault, send, receive
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        if self.start["status"] not in (200, 206):
            await self.send(self.start)
            await self.send({"type": "http.response.body", "body": self.body})
            return
        await getattr(self, f"_{self.fault.kind}")()

    async def _announce(self, size: int) -> None:
        headers = [(k, v) for k, v in self.start["headers"] if k != b"content-length"]
        headers.append((b"content-length", b"%d" % size))
        await self.send({**self.start, "headers": headers})

    async def _say(self, part: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": part, "more_body": more})

    async def _whole(self, body: bytes) -> None:
        await self._announce(len(body))
        await self._say(body, more=False)

    async def _truncate(self) -> None:
        await self._whole(self.body[: len(self.body) // 2])

    async def _corrupt(self) -> None:
        await self._whole(self.body[:-1] + bytes([self.body[-1] ^ 1]) if self.body else b"")

    async def _html(self) -> None:
        await self._whole(b"<html><body>Welcome to the Wi-Fi of this hotel</body></html>")

    async def _half(self) -> None:
        await self._announce(len(self.body))
        await self._say(self.body[: len(self.body) // 2])

    async def _drop(self) -> None:
        await self._half()
        await _cut(self.send, politely=True)

    async def _stall(self) -> None:
        await self._half()
        await _wait_for_the_end(self.receive)

    async def _slow(self) -> None:
        await self._announce(len(self.body))
        for start in range(0, len(self.body), self.fault.chunk):
            await asyncio.sleep(self.fault.delay)
            await self._say(self.body[start : start + self.fault.chunk])
        await self._say(b"", more=False)


async def _drain(receive: Receive) -> None:
    """Reads what the client sends, so that it hears the answer."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


async def _wait_for_the_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cut(send: Send, *, politely: bool = False) -> None:
    """Closes the connection under uvicorn, which offers no way of its own; politely: what was said still arrives."""
    transport = send.__self__.transport  # the bound method of the request's cycle
    transport.close() if politely else transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)  # until uvicorn has heard that the connection is gone
