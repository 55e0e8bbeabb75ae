"""Who may ask: the token, the names that the service answers to, and what is told to browsers."""

from __future__ import annotations

import hmac
import ipaddress
import stat
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medept.errors import DataError, SettingsError
from medept.serving.limits import RequestError

LEAST_TOKEN = 32
"""Characters of the shortest token."""

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token."""

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(host: str, file: Path | None) -> bytes | None:
    """The token in a file, of which the line's end is no part; None without a file.

    Raises:
        SettingsError: if the host can be reached from other machines, and there is no file.
        DataError: if others may read the file, or its token is short or holds spaces.
    """
    if file is None:
        if is_loopback(host):
            return None
        raise SettingsError(
            f"host={host}: other machines can reach it, so give token_file= with a secret of "
            f"{LEAST_TOKEN} characters or more (openssl rand -hex 32), or leave host= out"
        )
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise DataError(f"{file}: others may read the token; chmod 600 {file}")
    token = file.read_bytes().strip()
    printable = all(33 <= byte <= 126 for byte in token)
    if len(token) < LEAST_TOKEN or not printable:
        raise DataError(
            f"{file}: a token is one line of {LEAST_TOKEN} characters or more, ASCII without "
            "spaces; write one with: openssl rand -hex 32"
        )
    return token


class Gate:
    """Refuses requests before anything of their body is read.

    Without a token it answers only to the names of this machine, or a page in a browser here could
    reach it through a name of its own (DNS rebinding).

    Args:
        app: what is behind it.
        token: that requests have to bring; None for a service that only this machine can reach.
    """

    def __init__(self, app: ASGIApp, token: bytes | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except RequestError as problem:
            answer = JSONResponse(problem.content, problem.status, problem.headers)
            await answer(scope, receive, send_marked)
            return
        await self._app(scope, receive, send_marked)

    def _check(self, path: str, headers: Headers) -> None:
        if self._token is None:
            if hostname(headers.get("host", "")) not in LOCAL_NAMES:
                raise RequestError(
                    421, "not a name of this service", "ask for http://127.0.0.1 or localhost"
                )
            return
        if path in OPEN_PATHS:
            return
        given = headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, b"Bearer " + self._token):
            raise RequestError(
                401,
                "no token, or a wrong one",
                "send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )


def hostname(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
