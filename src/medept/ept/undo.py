"""What is to be done to make a model what it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


class Undo(ExitStack):
    """An ExitStack of calls, which can be copied and pickled together with the model they are for.

    >>> undo = Undo()
    >>> _ = undo.callback(print, "first in")
    >>> _ = undo.callback(print, "last in")
    >>> undo.close()
    last in
    first in
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def callback(self, callback: Callable[..., Any], /, *args: Any, **_: Any) -> Any:
        """Call ``callback(*args)`` when it is closed."""
        self._calls.append((callback, args))
        return callback

    def close(self) -> None:
        """Make all calls, the last one first."""
        while self._calls:
            function, arguments = self._calls.pop()
            function(*arguments)
