"""Printing: notes and progress go to standard error, results to standard output."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from medept.progress import duration, is_main_process, silent

if TYPE_CHECKING:
    from medept.evaluation.metrics import Evaluation
    from medept.progress import Progress as Report

notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
results = Console(highlight=False, markup=False)

ESTIMATED_OVER = 3600.0
"""Seconds over which speed is averaged for the time left: a benchmark's step may take minutes."""

SECONDS_BETWEEN_LINES = 60.0
"""Between two lines of progress, where there is no terminal to draw bars on."""


class Notes(logging.Handler):
    """Prints log records as notes, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        before = "warning: " if record.levelno >= logging.WARNING else ""
        notes.print(before + with_options(self.format(record)))


def fail(message: str) -> NoReturn:
    """Print what is wrong with the input, and exit with code 2."""
    notes.print(Text.assemble(("error:", "bold red"), f" {with_options(message)}"))
    raise SystemExit(2)


def with_options(message: str, verb: str | None = None) -> str:
    """A message of the library in the words of the command line.

    The library names a parameter ``name=``, or ``name=value``. Where that is an option of the verb
    it becomes ``--name``, or ``--name value``. The verb is by default the one that runs.

    >>> with_options("leave encoder_weights= out", "fit")
    'leave --encoder-weights out'
    >>> with_options("tune=-1: give the number of trials", "fit")
    '--tune -1: give the number of trials'
    """
    if verb is None:
        verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    options = _options(verb)

    def spoken(match: re.Match[str]) -> str:
        option = options.get(match[1])
        return option + " " * bool(match[2]) if option else match[0]

    return _PARAMETER.sub(spoken, message)


_PARAMETER = re.compile(r"(?<![^\s(])(?<!--set )(?<!--set-recipe )(\w+)=(?=([^\s,.;:)])?)")


@cache
def _options(verb: str) -> dict[str, str]:
    """The options of a verb by the names of their parameters: ``image_size``: ``--image-size``."""
    from typer.main import get_command

    from medept.cli.app import app

    command = get_command(app).commands.get(verb)  # type: ignore[attr-defined]
    options = [p for p in command.params if p.param_type_name == "option"] if command else []
    return {option.name: max(option.opts, key=len) for option in options}


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_metrics(evaluation: Evaluation) -> None:
    """Print metrics as a table, with notes on what is undefined below it."""
    from medept.report.model_card import METRIC_COLUMNS, metric_rows, undefined_notes

    table = Table(*METRIC_COLUMNS)
    for row in metric_rows(evaluation):
        table.add_row(*row)
    results.print(table)
    for note in undefined_notes(evaluation):
        results.print(note, soft_wrap=True)


@contextmanager
def resumable() -> Iterator[None]:
    """On Ctrl-C, say that the same command resumes."""
    try:
        yield
    except KeyboardInterrupt:
        notes.print("\nStopped. Give the same command again to go on.")
        raise


class RateColumn(ProgressColumn):
    """How much is done in a second or a minute."""

    def render(self, task: Task) -> Text:
        """Empty until it is known."""
        return Text(_rate(task.speed) if task.speed else "")


def _rate(speed: float) -> str:
    """A speed a second in words.

    >>> _rate(1234), _rate(0.5)
    ('1,234 a second', '30 a minute')
    """
    return f"{speed:,.0f} a second" if speed >= 2 else f"{60 * speed:,.0f} a minute"


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Progress bars on standard error, with an estimate of the time left.

    Where standard error is not a terminal, as in a background job, a line is printed every minute
    instead. Of several processes only the first reports.
    """
    if not is_main_process():
        yield silent
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    quiet = not notes.is_terminal
    with Progress(
        *columns,
        console=notes,
        transient=True,
        disable=quiet,
        speed_estimate_period=ESTIMATED_OVER,
    ) as bars:
        tasks: dict[str, Any] = {}
        last_line = time.monotonic()

        def report(what: str, done: int, total: int) -> None:
            nonlocal last_line
            key = what.split(" (")[0]
            if key not in tasks:
                tasks[key] = bars.add_task(what, total=total, completed=done)
            bars.update(tasks[key], description=what, completed=done, total=total)
            if not notes.is_terminal and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                task = bars.tasks[tasks[key]]
                estimate = [_rate(task.speed)] if task.speed else []
                if task.time_remaining is not None:
                    estimate.append(f"about {duration(task.time_remaining)} left")
                notes.print(", ".join([f"{what}: {done:,} of {total:,}", *estimate]))
                last_line = time.monotonic()

        yield report
