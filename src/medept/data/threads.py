"""Work that is done ahead of time, in threads."""

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
    """Number of threads for reading images: one per CPU core, at most 16."""
    return min(16, os.cpu_count() or 1)


def prefetch(
    function: Callable[[S], T], items: Iterable[S], *, threads: int = 1, limit: int = 2
) -> Iterator[T]:
    """Yield ``function(item)`` for each item, in their order, computed before it is asked for.

    Args:
        threads: how many compute at a time.
        limit: most results that are being computed or wait to be taken.

    >>> list(prefetch(str.upper, "abc", threads=2))
    ['A', 'B', 'C']
    """
    todo = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        running = deque(pool.submit(function, item) for item in islice(todo, limit))
        try:
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(todo, 1))
                yield result
        finally:
            for waiting in running:
                waiting.cancel()
