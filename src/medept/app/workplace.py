"""What all tabs of all windows share, and what is a window's own."""

from __future__ import annotations

import html
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nicegui import ui

from medept.app.fit_job import FitJob
from medept.app.learner import Learner
from medept.app.project import Project
from medept.errors import InputError

logger = logging.getLogger(__name__)

STARTED = secrets.token_hex(4)
"""In the address of pictures: a browser that kept those of another start asks anew."""


@dataclass
class Workplace:
    """One project that is open, with what is computed for it."""

    project: Project
    learner: Learner
    job: FitJob | None = None


@dataclass
class Visit:
    """What a browser window shows.

    Attributes:
        place: what it shares with others.
        reader: who labels in it.
        trail: rows that it has come by, in order.
        at: the place in the trail.
        selected: rows that are selected in the grid.
    """

    place: Workplace
    reader: str = ""
    trail: list[int] = field(default_factory=list)
    at: int = 0
    selected: set[int] = field(default_factory=set)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong for a reason that can be mended is told in the page, and nothing breaks."""
    try:
        yield
    except InputError as error:
        ui.notify(str(error), type="warning", multi_line=True, timeout=15000)
    except OSError as error:
        logger.warning("%s", error)
        what = error.strerror or str(error)
        ui.notify(
            f"This could not be saved: {error.filename or ''} {what}. Nothing was changed. Make "
            "room or give the right to write there, and do it again.",
            type="negative", multi_line=True, timeout=0, close_button="Close",
        )  # fmt: skip


def note(text: str) -> None:
    """A paragraph of explanation."""
    ui.label(text).classes("note")


def card(title: str) -> ui.card:
    """A part of a tab, under a heading of its own."""
    found = ui.card().classes("part")
    with found:
        heading(title)
    return found


def heading(text: str) -> None:
    """A heading that screen readers know as one."""
    ui.html(f"<h2>{html.escape(text)}</h2>", sanitize=False)


def framed(title: str, address: str) -> str:
    """A page of medept's own inside this one, in which nothing runs, as HTML."""
    return f'<iframe class="report" sandbox="" title="{title}" src="{address}"></iframe>'


def picture(row: int, name: str, kind: str = "small", number: int = 0) -> str:
    """An image of the pool as HTML; its name is shown as text whatever it holds."""
    address = f"/small/{row}" if kind == "small" else f"/large/{row}/{number}"
    return f'<img loading="lazy" src="{address}?{STARTED}" alt="{html.escape(name, quote=True)}">'
