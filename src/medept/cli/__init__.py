"""The command ``medept``: few verbs, and errors that say what to do."""

from __future__ import annotations

import logging
import warnings

from rich.logging import RichHandler
from rich.markup import escape

from medept.cli import adapt, compare, data  # noqa: F401 (their verbs register themselves)
from medept.cli.app import app
from medept.cli.console import notes
from medept.errors import InputError


def main() -> None:
    """Run the command line; exit code 2 and one clear message for bad input."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    log = logging.getLogger("medept")
    log.setLevel(logging.INFO)
    log.handlers = [RichHandler(console=notes, show_time=False, show_level=False, show_path=False)]
    try:
        app()
    except InputError as error:
        notes.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(2) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        notes.print(f"[bold red]error:[/] {place}{error.strerror or error}", soft_wrap=True)
        raise SystemExit(2) from None
