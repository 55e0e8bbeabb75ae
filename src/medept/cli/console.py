"""What the verbs print: notes and progress on standard error, results on standard output."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from medept.evaluation.metrics import Evaluation
    from medept.training.loop import Progress as Report

notes = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False)


class Notes(logging.Handler):
    """Log records as notes, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        before = "warning: " if record.levelno >= logging.WARNING else ""
        notes.print(before + self.format(record), markup=False)


def fail(message: str) -> NoReturn:
    """Say what is wrong with the input, and exit with code 2."""
    notes.print(f"[bold red]error:[/] {escape(message)}")
    raise SystemExit(2)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_metrics(evaluation: Evaluation) -> None:
    """The metrics as a table, undefined classes below it."""
    from medept.jobs import interval, number

    table = Table("metric", "value", "95 % interval", "n")
    for name, metric in evaluation.metrics.items():
        table.add_row(name, number(metric.value), interval(metric), str(metric.n))
    results.print(table)
    for name, classes in evaluation.undefined.items():
        results.print(f"{name}: undefined for, and averaged without, {', '.join(classes)}")


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Progress bars with an estimate of the time left, on standard error if it is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    quiet = not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=quiet) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            key = what.split(" (")[0]
            if key not in tasks:
                tasks[key] = bars.add_task(what, total=total)
            bars.update(tasks[key], description=what, completed=done, total=total)

        yield report
