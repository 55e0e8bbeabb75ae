"""Progress reports of long work, who makes them, how to silence them, and durations in words."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """No progress shown."""


def duration(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_main_process() -> bool:
    """Whether this is the first of the processes that ``accelerate launch`` began, or the only."""
    return int(os.environ.get("RANK", "0")) == 0


_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, the notes of this thread alone are left out; warnings are shown."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def is_shown(record: logging.LogRecord) -> bool:
    """Whether a handler should show a note: a filter for :meth:`logging.Handler.addFilter`."""
    return record.levelno >= logging.WARNING or not _QUIET.get()
