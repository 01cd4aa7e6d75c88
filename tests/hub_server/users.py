"""Who may do what: tokens, the people behind them, their organisations, and what an answer of "no" looks like."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub_server.store import Repository

TOKENS = {"hf_alice": "alice", "hf_bob": "bob", "hf_secret": "alice"}
ORGANISATIONS = {"alice": ["madzoo-org"], "bob": []}
BAD_TOKEN = "Invalid credentials in Authorization header"


class RefusalError(Exception):
    """Carries the answer that a request gets in place of what it asked for."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(code or message)
        self.status, self.code, self.message, self.headers = status, code, message or code, dict(headers or {})

    @property
    def response(self) -> Response:
        told = {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return JSONResponse({"error": self.message}, status_code=self.status, headers=told | self.headers)


def who(request: Request) -> str | None:
    """Returns the person behind a request's token, or None; an unknown token is refused."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    if (user := TOKENS.get(header.removeprefix("Bearer "))) is None:
        raise RefusalError(401, message=BAD_TOKEN)
    return user


def owns(user: str | None, namespace: str) -> bool:
    """Tells whether a person may write under a name."""
    return user is not None and namespace in (user, *ORGANISATIONS[user])


def check_writer(request: Request, namespace: str) -> str:
    """Returns who writes; others are refused."""
    user = who(request)
    if user is None:
        raise RefusalError(401, message="Invalid username or password.")
    if not owns(user, namespace):
        raise RefusalError(403, message=f"You don't have the rights to write under the namespace {namespace!r}")
    return user


def check_reader(request: Request, repo: Repository, *, content: bool) -> None:
    """Refuses who may not see a repository, or with ``content`` the files of a gated one."""
    user = who(request)
    if owns(user, repo.namespace):
        return
    if repo.private and user is None:
        raise RefusalError(401, "RepoNotFound", "Invalid username or password.")
    if repo.private:
        raise RefusalError(404, "RepoNotFound", "Repository not found")
    if repo.gated and content:
        why = f"Access to model {repo.id} is restricted. You must have access to it and be authenticated."
        raise RefusalError(401 if user is None else 403, "GatedRepo", why)
