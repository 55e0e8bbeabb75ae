"""Who may open the page: whoever has the address that was printed, once."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from medept.serving.access import LOCAL_NAMES, hostname

NO_TOKEN = (
    "This page needs the address that medept printed when it started. It works once: afterwards "
    "only the browser that opened it may come back. Start medept app again for a new one.\n"
)


class OneTimeToken:
    """Lets in the browser that brings the token first, and keeps it in by a cookie.

    Nothing answers to a foreign host name or to another page, so that neither can reach it.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.token = secrets.token_urlsafe(24)
        self._used = False
        self._name, self._cookie = f"medept-{secrets.token_hex(4)}", secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a web socket, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        host = asked.headers.get("host", "")
        foreign = urlsplit(asked.headers.get("origin", f"//{host}")).netloc != host
        if hostname(host) not in LOCAL_NAMES or foreign:
            await _refuse(PlainTextResponse("not a name of this page\n", 421), scope, receive, send)
        elif _same(asked.cookies.get(self._name, ""), self._cookie):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._brings_token(scope):
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(self._name, self._cookie, httponly=True, samesite="lax")
            await answer(scope, receive, send)
        else:
            await _refuse(PlainTextResponse(NO_TOKEN, 401), scope, receive, send)

    def _brings_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        right = _same(given, self.token) and not self._used
        self._used |= right
        return right


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


async def _refuse(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await answer(scope, receive, send)
