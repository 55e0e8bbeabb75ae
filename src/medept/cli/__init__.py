"""The command ``medept``: runs a verb, and prints errors that say what to do."""

from __future__ import annotations

import logging
import sys
import warnings

from medept.cli import (  # noqa: F401 (their verbs register themselves)
    adapt,
    compare,
    data,
    label,
    serving,
    use,
)
from medept.cli.app import app
from medept.cli.console import Notes, fail, with_options
from medept.errors import InputError, is_out_of_memory
from medept.files import PARTIAL
from medept.progress import is_main_process, is_shown


def main() -> None:
    """Run the command line; exit code 2 and one clear message for bad input."""
    warnings.formatwarning = lambda text, *_, **__: f"warning: {with_options(str(text))}\n"
    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is drawn in its place
    for stream in (sys.stdout, sys.stderr):  # whose characters may be few
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    log = logging.getLogger("medept")
    log.setLevel(logging.INFO)
    handler = Notes() if is_main_process() else logging.NullHandler()
    handler.addFilter(is_shown)
    log.handlers = [handler]
    try:
        app()
    except InputError as error:
        fail(str(error))
    except OSError as error:
        place = f"{error.filename}: ".replace(PARTIAL, "") if error.filename else ""
        fail(f"{place}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail(
            f"not enough memory ({error}); for fit, --set-recipe micro_batch=4 computes fewer "
            "images at once, with the same result; or try a smaller --image-size, or another device"
        )
