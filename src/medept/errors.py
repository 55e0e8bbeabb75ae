"""The one exception that means: what was given cannot be used, and here is what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input from the user.

    The message names the file, row, column or argument at fault and says what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """


def problems(error: ValidationError) -> str:
    """What pydantic found wrong, as one line: ``epochs: Input should be ...; size: not known``."""
    found = []
    for each in error.errors():
        what = "not known" if each["type"] == "extra_forbidden" else each["msg"]
        found.append(": ".join(filter(None, [".".join(map(str, each["loc"])), what])))
    return "; ".join(found)
