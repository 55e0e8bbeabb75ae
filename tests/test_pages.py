"""The pages refer to what is there (files, headings, modules), and wrap at 100 columns."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from helpers import ROOT

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "pretraining").glob("*.md"),
        *(ROOT / "src").rglob("*.md"),
    ]
)
FOLDERS = "src|tests|docs|benchmarks|pretraining"


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings: lower case, hyphens for spaces, no other punctuation."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page), flags=re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
    return {f"{name}-{i}" if i else name for name, last in found.items() for i in range(last + 1)}


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w./-]*", text):
        assert (ROOT / name.rstrip(".")).exists(), name
    for name in re.findall(r"\bmedept(?:\.[A-Za-z_]\w*)+", text):
        assert resolves(name), name


@each_page
def test_lines_are_no_longer_than_100(page: Path) -> None:
    """Of prose and code; a row of a table is one line, and so is an image."""
    text = page.read_text(encoding="utf-8")
    long = [line for line in text.splitlines() if len(line) > 100 and line[0] not in "|!"]
    assert not long


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of medept, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_layout_names_every_folder_and_module_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```\n(.*?)^```", text, flags=re.S | re.M)
    named = {line.split()[0].rstrip("/") for line in block.splitlines() if line[0] != " "}
    there = {p.name for p in (ROOT / "src/medept").iterdir() if not p.name.startswith(("_", "py."))}
    assert named == there
