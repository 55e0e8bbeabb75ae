"""A table to print: as markdown, as LaTeX, or by a page's template as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table to print: a title, heads, rows of text, which cells are the best, notes below.

    ``groups`` are heads that span several columns after the first: (text, columns) each.
    """

    title: str
    groups: tuple[tuple[str, int], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()


def as_markdown(grid: Grid) -> str:
    """A markdown table; groups go into the heads."""
    head = list(grid.head)
    place = 1
    for text, count in grid.groups:
        for column in range(place, place + count):
            head[column] = f"{text} {head[column]}".strip()
        place += count
    lines = [f"### {grid.title}", "", _row(head), _row(["---"] * len(head))]
    for r, row in enumerate(grid.rows):
        lines.append(_row([f"**{c}**" if (r, i) in grid.best else c for i, c in enumerate(row)]))
    return "\n".join([*lines, "", *grid.notes])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_latex(grid: Grid) -> str:
    """A LaTeX table (booktabs)."""
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(grid.title)}. {_latex(' '.join(grid.notes))}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}",
        "\\toprule",
    ]
    if grid.groups:
        spans = [f"\\multicolumn{{{count}}}{{c}}{{{_latex(text)}}}" for text, count in grid.groups]
        lines.append(" & ".join(["", *spans]) + " \\\\")
    lines += [" & ".join(map(_latex, grid.head)) + " \\\\", "\\midrule"]
    for r, row in enumerate(grid.rows):
        cells = [
            f"\\textbf{{{_latex(cell)}}}" if (r, i) in grid.best else _latex(cell)
            for i, cell in enumerate(row)
        ]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
          "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "±": r"$\pm$", "–": "--"}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
