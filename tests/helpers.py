"""What tests of several subjects use: the command line, pages, and the real data where it is."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medept import cli
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def shared_data(*parts: str) -> Path:
    """A path below the shared data; the test is skipped where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)}, which is not on this machine")
    return path


def run(*arguments: object) -> int:
    """The exit code of ``medept ARGUMENTS``."""
    before = sys.argv
    sys.argv = ["medept", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return 0


def read_csv(folder: Path, text: str, **options: object) -> LabelledImages:
    """The data set of a table ``t.csv`` in a folder, with this text."""
    table = folder / "t.csv"
    table.write_text(text, encoding="utf-8")
    return read_dataset(table, **options)  # type: ignore[arg-type]


def refuse(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """``medept ARGUMENTS`` ends with exit code 2, one error that matches, and nothing printed."""
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("error: ") or "error:" in printed.err
    assert re.search(message, " ".join(printed.err.split()))
    assert "Traceback" not in printed.err
    assert printed.out == ""


class Page(HTMLParser):
    """Tables as rows of cells, by the heading before them; every attribute that loads something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.alts: list[str | None] = []
        self.scripts = 0
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded += [given[name] or "" for name in ("src", "href") if name in given]
        self.scripts += tag == "script"
        if tag == "img":
            self.alts.append(given.get("alt"))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data.strip()

    def row(self, name: str, cells: int) -> list[str]:
        return next(row[1:] for row in self.rows if row and row[0] == name and len(row) == cells)

    def last(self, name: str) -> list[str]:
        return next(row[1:] for row in reversed(self.rows) if row and row[0] == name)
