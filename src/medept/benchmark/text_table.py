"""A table of text cells, written as markdown or LaTeX; a page's template writes it as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table of text cells.

    Attributes:
        title: above the table.
        groups: headings above several columns each, after the first column: (text, columns).
        head: a heading per column.
        rows: a cell per column.
        best: (row, column) of the cells in bold.
        notes: sentences below the table.

    >>> table = TextTable("Scores", (), ("method", "mAP"), (("ept", "71.2"),), notes=("Percent.",))
    >>> print(to_markdown(table))
    ### Scores
    <BLANKLINE>
    | method | mAP |
    | --- | --- |
    | ept | 71.2 |
    <BLANKLINE>
    Percent.
    """

    title: str
    groups: tuple[tuple[str, int], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()


def to_markdown(table: TextTable) -> str:
    """A markdown table, in which each heading begins with that of its group."""
    head = list(table.head)
    start = 1
    for text, count in table.groups:
        for column in range(start, start + count):
            head[column] = f"{text} {head[column]}".strip()
        start += count
    lines = [f"### {table.title}", "", _row(head), _row(["---"] * len(head))]
    for r, row in enumerate(table.rows):
        lines.append(_row([f"**{c}**" if (r, i) in table.best else c for i, c in enumerate(row)]))
    return "\n".join([*lines, "", *table.notes])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_latex(table: TextTable) -> str:
    """A LaTeX table that needs the package booktabs."""
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(table.title)}. {_latex(' '.join(table.notes))}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
        "\\toprule",
    ]
    if table.groups:
        spans = [f"\\multicolumn{{{count}}}{{c}}{{{_latex(text)}}}" for text, count in table.groups]
        lines.append(" & ".join(["", *spans]) + " \\\\")
    lines += [" & ".join(map(_latex, table.head)) + " \\\\", "\\midrule"]
    for r, row in enumerate(table.rows):
        cells = [
            f"\\textbf{{{_latex(cell)}}}" if (r, i) in table.best else _latex(cell)
            for i, cell in enumerate(row)
        ]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
          "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "±": r"$\pm$", "–": "--"}  # fmt: skip


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)
