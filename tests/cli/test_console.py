"""Progress and results where the terminal is poor, or is none."""

from __future__ import annotations

import ast
import io
import re
import sys
import time
from pathlib import Path

import pytest
from helpers import run

from medept.cli import console


def test_progress_is_a_line_at_times_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress_bars() as report:
        for done in range(4):
            report(f"training (loss {done})", done, 4000)
            time.sleep(0.02)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training")]
    assert len(lines) == 4
    assert re.fullmatch(
        r"training \(loss 3\): 3 of 4,000, [\d,]+ a (second|minute), about \d+ (s|min) left",
        lines[-1],
    )


def test_characters_that_the_terminal_lacks_are_no_error(
    fitted: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert run("evaluate", fitted, table) == 0
    sys.stdout.flush()
    assert b"accuracy" in printed.getvalue()
    assert b"?" in printed.getvalue(), "in place of the lines of the table"


@pytest.mark.parametrize(
    ("verb", "message", "shown"),
    [
        ("fit", "leave encoder_weights= out", "leave --encoder-weights out"),
        ("fit", "a smaller lr= or encoder_lr=", "a smaller --lr or --encoder-lr"),
        ("fit", "tune=-1: give more", "--tune -1: give more"),
        ("fit", "with settings=, or (image_size=)", "with --set, or (--image-size)"),
        ("predict", "skip_unreadable= leaves it out", "--skip-unreadable leaves it out"),
        ("predict", "a smaller lr= or batch_size=", "a smaller lr= or batch_size="),
        ("fit", "--set-recipe lr=x: no number", "--set-recipe lr=x: no number"),
        ("fit", "my.csv?seed=3 has length=4", "my.csv?seed=3 has length=4"),
        ("", "leave encoder_weights= out", "leave encoder_weights= out"),
    ],
)
def test_parameters_of_the_library_are_named_as_options(
    verb: str, message: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert console.with_options(message, verb) == shown
    monkeypatch.setattr(sys, "argv", ["medept", *filter(None, ["-h", verb])])
    assert console.with_options(message) == shown


def test_errors_and_warnings_of_the_library_name_parameters_not_options() -> None:
    """Messages that are raised, warned or logged; a command in backticks is another matter."""
    package = Path(console.__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        if file.is_relative_to(package / "cli"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                said = [
                    part.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                name = ast.unparse(node.func).rpartition(".")[2]
                if name.endswith("Error") or name in ("warn", "warning", "info"):
                    message = re.sub("`[^`]*`", "", " ".join(said))
                    assert not re.search(r"(?<!\w)--[a-z]", message), f"{file}: {message}"
