"""Runs the page on this machine alone, until it is told to stop."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path

from medept.errors import ResourceError

try:
    import uvicorn
    from fastapi import FastAPI, Response
    from nicegui import ui
except ImportError as error:
    raise ResourceError("the page needs an extra: pip install 'medept[app]'") from error

from medept.app.access import OneTimeToken
from medept.app.learner import Learner
from medept.app.page import show_page
from medept.app.project import Project, project_folder
from medept.app.thumbnails import Thumbnails
from medept.app.workplace import Workplace
from medept.labelling.pool import Pool
from medept.serving.listen import bound

HOST = "127.0.0.1"

HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
}
"""Of pictures and reports: nothing in them runs, and nothing is loaded from elsewhere."""


def run_page(
    pool: Pool,
    *,
    folder: Path | None = None,
    port: int = 0,
    browser: bool = True,
    encoder: str | None = None,
    symmetry: str | None = None,
    started: Callable[[str], None] = print,
) -> None:
    """Show the page of a pool of images, on loopback; returns when it is stopped.

    Args:
        pool: what is to be labelled.
        folder: of the project; default: beside the images (:func:`project_folder`).
        port: where to listen; 0 takes any that is free.
        browser: whether to open it.
        encoder: which is fitted; default: as before, at first the one that ships inside.
        symmetry: of fits; default: as before, at first ``auto``.
        started: called with the address, in which the one-time token is.

    Raises:
        InputError: if the port is taken, or the project is damaged.
        OSError: if the project's folder cannot be written.
    """
    project = Project(pool, folder or project_folder(pool.source))
    project.settings.encoder = encoder or project.settings.encoder
    project.settings.symmetry = symmetry or project.settings.symmetry
    project.save()
    learner = Learner(project)
    with bound(HOST, port) as held:
        gate = make_app(Workplace(project, learner))
        config = uvicorn.Config(
            gate, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        address = f"http://{HOST}:{held.getsockname()[1]}/?token={gate.token}"
        started(address)
        learner.start()
        held.listen()  # a browser that is faster than the server waits
        if browser:
            webbrowser.open(address)
        try:
            uvicorn.Server(config).run(sockets=[held])
        finally:
            learner.stop()


def make_app(place: Workplace) -> OneTimeToken:
    """The page and its pictures, behind the token."""
    server = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pictures = Thumbnails(place.project.pool, place.project.folder / "thumbnails")
    rows = range(len(place.project.pool))

    @server.get("/small/{row}")
    def small(row: int) -> Response:
        if row not in rows:
            return Response(status_code=404)
        return Response(pictures.small(row), media_type="image/jpeg", headers=HEADERS)

    @server.get("/large/{row}/{number}")
    def large(row: int, number: int) -> Response:
        if row not in rows or number not in range(pictures.count(row)):
            return Response(status_code=404)
        return Response(pictures.large(row, number), media_type="image/jpeg", headers=HEADERS)

    @server.get("/report/{name}")
    def report(name: str) -> Response:
        found = [fit for fit in place.project.fits if fit.name == name]
        if not found:
            return Response(status_code=404)
        return Response(
            (found[0] / "report.html").read_bytes(), media_type="text/html", headers=HEADERS
        )

    @server.get("/check/{name}")
    def check(name: str) -> Response:
        found = [page.parent.name for page in place.project.checks]
        if name not in found:
            return Response(status_code=404)
        content = place.project.checks[found.index(name)].read_bytes()
        return Response(content, media_type="text/html", headers=HEADERS)

    ui.run_with(
        server,
        root=lambda: show_page(place),
        title="medept",
        language="en-US",
        reconnect_timeout=30,
        show_welcome_message=False,
    )
    return OneTimeToken(server)
