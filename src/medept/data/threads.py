"""Reading ahead in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def available_threads() -> int:
    """For reading images: one a core, 16 at most."""
    return min(16, os.cpu_count() or 1)


def ahead(
    function: Callable[[S], T], items: Iterable[S], *, threads: int = 1, most: int = 2
) -> Iterator[T]:
    """``function`` of each item, in their order, computed in threads before it is asked for.

    Args:
        most: how many results, at most, are being computed or wait to be taken.
    """
    todo = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        running = deque(pool.submit(function, item) for item in islice(todo, most))
        try:
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(todo, 1))
                yield result
        finally:
            for waiting in running:
                waiting.cancel()
