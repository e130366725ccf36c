"""What stands before Prefect's and MLflow's servers: a foreign host gets 400, a foreign origin 403, a request without the password 401.

Prefect 3.8 has no setting for hosts, and its default admits every origin. MLflow trusts every page of the loopback, whichever user's program
serves it. A page that a browser has loaded from another address can therefore reach neither server, by DNS rebinding neither.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = "MMALIGN_SERVER_HOSTS"  # names by which requests may address a server, with commas: in the server's environment

# Routes of Prefect's server that a GET reaches without the password: its two probes, and the static pages with their settings (where the API
# is, and that it wants a password). None of them tells anything about runs.
ROUTES_OPEN = (r"/api/health", r"/api/ready", r"/(?!(?:api|docs|redoc|openapi\.json)(?:/|$)).*")


class Door:
    """Passes on to `app` the requests for one of `hosts` from the server's own pages. With `auth` (user:password), the rest needs that too."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], *, auth: str | None = None) -> None:
        self._app = app
        self._expected = None if auth is None else f"Basic {base64.b64encode(auth.encode()).decode()}"
        self._open = re.compile("|".join(ROUTES_OPEN))
        self._checked = TrustedHostMiddleware(self._inside, hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        await self._checked(scope, receive, send)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What has passed the check of its host."""
        app = self._app
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            if foreign(headers.get("origin"), headers.get("host", "")):
                app = PlainTextResponse("requests of other pages are refused", status_code=403)
            elif scope["type"] == "http" and self._needs_password(scope, headers):  # a socket sends the password in its first message
                app = JSONResponse({"exception_message": "Unauthorized"}, status_code=401)
        await app(scope, receive, send)

    def _needs_password(self, scope: Scope, headers: Headers) -> bool:
        if self._expected is None or (scope["method"] == "GET" and self._open.fullmatch(scope["path"])):
            return False
        return not hmac.compare_digest(headers.get("authorization", "").encode(), self._expected.encode())


def foreign(origin: str | None, host: str) -> bool:
    """Whether a browser sends a request for a page from another address than `host`. Programs send no origin."""
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != host
    except ValueError:
        return True
