"""Progress reports of long work, who makes them, how to silence them, and durations in words."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, medept logs warnings alone."""
    log = logging.getLogger("medept")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
