"""The result of a data check: as text for a terminal, as one HTML page, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medept.checks.check import CheckResult
from medept.checks.findings import Finding
from medept.data.cases import images_of
from medept.data.labelled_images import LabelledImages, label_text
from medept.files import whole_folder, write_table, write_text
from medept.report.html import render, shown, thumbnail

_SETS, _IMAGES, _LINES = 12, 6, 3
"""How many sets of a finding, images of a set on the page, and lines of text are shown."""


@dataclass(frozen=True)
class Counts:
    """A table of counts.

    Attributes:
        title: above it.
        head: headings of the columns.
        rows: cells, the last of which is a count.
        sums: rows that sum up several others.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sums: tuple[tuple[str, ...], ...] = ()


def write_check(check: CheckResult, source: str, out: Path) -> None:
    """Write ``check.html`` and ``findings.csv`` into the new folder ``out``.

    Raises:
        InputError: if ``out`` exists and is not an empty folder.
    """
    with whole_folder(out) as folder:
        write_text(folder / "check.html", as_html(check, source))
        write_table(folder / "findings.csv", as_table(check))


def as_dict(check: CheckResult) -> dict[str, Any]:
    """The result as JSON can hold it."""
    names = check.data.names
    return {
        "images": len(check.data),
        "flatters": check.flatters,
        "findings": [
            {
                "kind": finding.kind,
                "flatters": finding.flatters,
                "title": finding.title,
                "advice": finding.advice,
                "sets": [[shown(names[row]) for row in rows] for rows in finding.sets],
                "notes": [shown(note) for note in finding.notes],
            }
            for finding in check.findings
        ],
        "counts": {
            table.title: [list(row) for row in table.rows + table.sums]
            for table in counts(check, limit=None)
        },
        "probe_balanced_accuracy": check.probe_accuracy,
    }


def as_table(check: CheckResult) -> pd.DataFrame:
    """One row per image in a set of images that a finding is about."""
    data = check.data
    rows = []
    for finding in check.findings:
        for number, members in enumerate(finding.sets, start=1):
            for row in members:
                rows.append(
                    {
                        "finding": finding.kind,
                        "flatters": finding.flatters,
                        "set": number,
                        "image": data.names[row],
                        "label": label_text(data.targets[row], data.classes),
                        "group": None if data.groups is None else data.groups[row],
                        "split": None if data.splits is None else data.splits[row],
                        "note": finding.notes[number - 1] if finding.notes else "",
                    }
                )
    columns = ["finding", "flatters", "set", "image", "label", "group", "split", "note"]
    return pd.DataFrame(rows, columns=columns)


def as_text(check: CheckResult, source: str) -> RenderableType:
    """The result as text for a terminal.

    Args:
        source: name of the data.
    """
    parts: list[RenderableType] = [
        Text(f"{shown(source)}: {facts(check)}", "bold"),
        Text(verdict(check), "bold red" if check.flatters else "bold green"),
    ]
    for finding in check.findings:
        mark, style = ("!!", "red") if finding.flatters else ("! ", "yellow")
        parts.append(Text.assemble("\n", (f"{mark} {finding.title}", style)))
        parts.append(Text(f"   {finding.advice}", "dim"))
        parts += [Text(f"   - {line}") for line in _lines(check.data, finding)]
    for counted in counts(check, limit=12):
        table = Table(*counted.head, title=counted.title, title_justify="left", box=None)
        for row in counted.rows + counted.sums:
            table.add_row(*(Text(cell) for cell in row))
        parts += [Text(""), table]
    parts += [Text(""), Text(method(check), "dim")]
    return Group(*parts)


def as_html(check: CheckResult, source: str) -> str:
    """The page as HTML, with its thumbnails inside.

    Args:
        source: name of the data.
    """
    return render(
        "check.html.j2",
        source=shown(source),
        facts=facts(check),
        flatters=check.flatters,
        verdict=verdict(check),
        findings=[_finding(check.data, finding) for finding in check.findings],
        tables=[_bars(table) for table in counts(check, limit=15)],
        method=method(check),
    )


# --- words and numbers -----------------------------------------------------------------------


def facts(check: CheckResult) -> str:
    """The numbers of images, classes and groups."""
    data = check.data
    classes = f"{len(data.classes)} class{'es' if len(data.classes) > 1 else ''}"
    parts = [f"{len(data):,} images", classes]
    if check.cases:
        parts.append(f"{check.cases:,} cases")
    if data.groups is not None:
        parts.append(f"{len(set(data.groups.tolist())):,} groups")
    elif data.splits is None:
        parts.append("no groups: each image counts as a patient of its own")
    return ", ".join(parts)


def verdict(check: CheckResult) -> str:
    """The result in one sentence."""
    if check.flatters:
        return "Results on these data would look better than they are: mend this first."
    if check.findings:
        return "Nothing that would flatter a result; some things to look at."
    return "Nothing that would flatter a result."


def method(check: CheckResult) -> str:
    """How the data were checked."""
    text = (
        "Duplicates: SHA-256 of the decoded pixels; perceptual hash and correlation for near ones. "
    )
    if not check.probe_accuracy:
        return text + "Labels were not checked."
    values = ", ".join(
        f"{value:.2f}" if name == "all" else f"{shown(name)} {value:.2f}"
        for name, value in check.probe_accuracy.items()
    )
    return text + (
        "Labels: logistic regression on frozen features, cross-validated with groups kept "
        f"together; its balanced accuracy is {values}, and no label is doubted if it is "
        "close to guessing."
    )


def counts(check: CheckResult, limit: int | None) -> list[Counts]:
    """Numbers of images by class (and split), by group, by size and by mode.

    Args:
        limit: greatest number of rows of sizes, modes and groups; None for all.
    """
    tables = [_classes(check.data)]
    if check.data.groups is not None:
        sizes = Counter(Counter(check.data.groups.tolist()).values())
        rows = [(f"{size} image{'s' if size > 1 else ''}", n) for size, n in sorted(sizes.items())]
        tables.append(_counted("Groups by size", ("a group of", "groups"), rows, limit))
    sizes_ = [(f"{w} x {h}", n) for (w, h), n in check.sizes.most_common()]
    tables.append(_counted("Sizes", ("pixels", "images"), sizes_, limit))
    tables.append(_counted("Modes", ("mode", "images"), check.modes.most_common(), limit))
    return tables


def _classes(data: LabelledImages) -> Counts:
    sides = [] if data.splits is None else [s for s in ("train", "val", "test") if s in data.splits]
    head = ["class", *sides, *(["groups"] if data.groups is not None else []), "images"]
    rows = []
    for c, name in enumerate(data.classes):
        has: np.ndarray = np.equal(data.targets, c)
        if data.task == "multilabel":
            has = np.equal(data.targets[:, c], 1)
        rows.append((shown(name), *_numbers(data, has, sides)))
    if data.task == "multilabel":
        rows.append(("(none)", *_numbers(data, data.targets.sum(axis=1) == 0, sides)))
    every = ("all", *_numbers(data, np.ones(len(data), bool), sides))
    return Counts("Classes", tuple(head), tuple(rows), (every,))


def _numbers(data: LabelledImages, has: np.ndarray, sides: Sequence[str]) -> list[str]:
    numbers = [int((has & (data.splits == side)).sum()) for side in sides]
    if data.groups is not None:
        numbers.append(len(set(data.groups[has].tolist())))
    return [f"{number:,}" for number in [*numbers, int(has.sum())]]


def _counted(
    title: str, head: tuple[str, str], rows: Iterable[tuple[str, int]], limit: int | None
) -> Counts:
    every = list(rows)
    cells = tuple((shown(name), f"{n:,}") for name, n in every[:limit])
    rest = every[len(cells) :]
    others = (f"{len(rest)} others", f"{sum(n for _, n in rest):,}")
    return Counts(title, head, cells, (others,) if rest else ())


def _about(data: LabelledImages, row: int) -> str:
    parts = [label_text(data.targets[row], data.classes) or "no label"]
    if data.groups is not None:
        parts.append(f"group {data.groups[row]}")
    if data.splits is not None:
        parts.append(str(data.splits[row]))
    return shown(", ".join(parts))


def _lines(data: LabelledImages, finding: Finding) -> list[str]:
    lines = []
    for number, rows in enumerate(finding.sets[:_LINES]):
        images = [f"{shown(data.names[row])} ({_about(data, row)})" for row in rows[:_LINES]]
        more = f" and {len(rows) - _LINES} more" if len(rows) > _LINES else ""
        note = f": {shown(finding.notes[number])}" if finding.notes else ""
        lines.append(" = ".join(images) + more + note)
    if len(finding.sets) > _LINES:
        lines.append(f"and {len(finding.sets) - _LINES:,} more (--out DIR writes all)")
    return lines


# --- HTML ------------------------------------------------------------------------------------


def _finding(data: LabelledImages, finding: Finding) -> dict[str, Any]:
    notes = finding.notes or ("",) * len(finding.sets)
    images = images_of(data.images)
    sets = [
        {
            "images": [
                {
                    "name": shown(data.names[row]),
                    "about": _about(data, row),
                    "picture": "" if finding.kind == "unreadable" else thumbnail(images[row]),
                }
                for row in rows[:_IMAGES]
            ],
            "more": max(0, len(rows) - _IMAGES),
            "note": shown(note),
        }
        for rows, note in zip(finding.sets[:_SETS], notes, strict=False)
    ]
    return {
        "title": finding.title,
        "advice": finding.advice,
        "flatters": finding.flatters,
        "sets": sets,
        "more": max(0, len(finding.sets) - _SETS),
    }


def _bars(table: Counts) -> dict[str, Any]:
    numbers = [int(row[-1].replace(",", "")) for row in table.rows]
    most = max([*numbers, 1])
    rows = [
        {"cells": row, "share": round(100 * n / most, 1)}
        for row, n in zip(table.rows, numbers, strict=True)
    ]
    rows += [{"cells": row, "share": 0} for row in table.sums]
    return {"title": table.title, "head": table.head, "rows": rows}
