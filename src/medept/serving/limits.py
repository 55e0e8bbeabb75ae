"""What the service accepts, how it refuses the rest, and how much it holds in memory at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from medept.errors import SettingsError

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What one request may bring, and how many may wait.

    Attributes:
        max_megabytes: of one request's body.
        max_files: in one request.
        max_megapixels: of one image, which is refused before it is decoded.
        timeout: seconds for a request to arrive, and again for its answer.
        queue: requests that are received, wait or are computed at the same time.
    """

    max_megabytes: float = 64
    max_files: int = 32
    max_megapixels: float = 50
    timeout: float = 60
    queue: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise SettingsError(f"{field.name}={getattr(self, field.name)}: give more than 0")

    @property
    def request_bytes(self) -> int:
        """Most bytes of one request's body."""
        return int(self.max_megabytes * MEGABYTE)

    @property
    def image_pixels(self) -> int:
        """Most pixels of one image."""
        return int(self.max_megapixels * MEGABYTE)


class RequestError(Exception):
    """A request that is not served, and why.

    Args:
        status: of the HTTP answer.
        error: what is wrong.
        remedy: what the client can do about it.
        file: the position of the file at fault in the request, counted from 1.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        error: str,
        remedy: str,
        *,
        file: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.headers = status, headers
        self.content = {"error": error, "file": file, "remedy": remedy}


class Door:
    """Counts the requests inside, and their bytes; refuses those that there is no room for.

    >>> door = Door(requests=1, size=100)
    >>> with door.enter(60):
    ...     try:
    ...         with door.enter(1):
    ...             pass
    ...     except RequestError as problem:
    ...         print(problem.status, problem.headers)
    503 {'Retry-After': '1'}
    >>> door.requests
    0
    """

    def __init__(self, requests: int, size: int) -> None:
        self._most_requests, self._most_bytes = requests, size
        self.requests = self._bytes = 0

    @contextmanager
    def enter(self, size: int) -> Iterator[None]:
        """Be inside with a body of ``size`` bytes."""
        if self.requests == self._most_requests or self._bytes + size > self._most_bytes:
            raise RequestError(
                503,
                "busy: as many requests as there is room for are being served",
                "send it again in a second",
                headers={"Retry-After": "1"},
            )
        self.requests += 1
        self._bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self._bytes -= size


class Budget:
    """An amount that coroutines of one event loop share; who finds too little left waits."""

    def __init__(self, amount: int) -> None:
        self._left = amount
        self._changed = asyncio.Condition()

    async def take(self, amount: int) -> None:
        """Wait until there is so much, and take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount

    async def give(self, amount: int) -> None:
        """Put so much back."""
        async with self._changed:
            self._left += amount
            self._changed.notify_all()
