"""The tables and figures of a benchmark: in the paper's layout, beside the paper's numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medept.benchmark.comparison import (
    REFERENCE,
    means,
    paired_tests,
    paper_seconds,
    paper_values,
    read_benchmark,
    scores,
    shots_text,
    summary,
    task_names,
)
from medept.benchmark.suite import Suite
from medept.files import whole_file, write_table, write_text
from medept.report import plots
from medept.report.html import picture, render, shown

REPORT = "report.html"
REAL = 0.05
"""Below this p, corrected, a difference is called real."""


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


def write_benchmark(folder: Path) -> Path:
    """Write ``report.html``, ``tables.md``, ``tables.tex``, ``tests.csv`` and figures to a folder.

    Raises:
        InputError: if ``medept bench`` has not written there, or every run failed.
    """
    suite, runs = read_benchmark(folder)
    runs = in_order(runs, suite)
    table = scores(runs, as_in_paper=suite.table is not None)
    tests = paired_tests(table)
    grids = [*_grids(suite, table), *_test_grids(tests), *_cost(suite, runs)]
    figures = draw(suite, runs, table)
    with whole_file(folder / "results.parquet") as partial:
        runs.to_parquet(partial, index=False)
    write_table(folder / "tests.csv", tests)
    write_text(folder / "tables.md", "\n\n".join(map(as_markdown, grids)) + "\n")
    write_text(folder / "tables.tex", "\n\n".join(map(as_latex, grids)) + "\n")
    for name, figure in figures.items():
        plots.save(figure, folder / "figures" / f"{name}.png")
    page = render(
        "benchmark.html.j2",
        title=suite.title,
        facts=_facts(runs),
        grids=grids,
        figures=[{"uri": picture(figure), "name": name} for name, figure in figures.items()],
        failed=_failed(runs),
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def in_order(runs: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Runs with methods and data in the order of the suite, those of others after them."""
    methods, data = list(suite.methods), list(suite.data)

    def place(column: pd.Series) -> pd.Series:
        names = methods if column.name == "label" else data if column.name == "data" else None
        if names is None:
            return column
        return column.map(lambda x: names.index(x) if x in names else len(names))

    return runs.sort_values(["data", "label"], key=place, kind="stable").reset_index(drop=True)


# --- tables ----------------------------------------------------------------------------------


def _grids(suite: Suite, table: pd.DataFrame) -> list[Grid]:
    return [
        _grid(f"{suite.title}: {name}", part, suite.table)
        for name, part in table.groupby("encoder", sort=False)
    ]


def _grid(title: str, table: pd.DataFrame, paper: str | None) -> Grid:
    """Mean ± standard deviation over episodes, in percent; the paper's own below."""
    mean, spread = means(table)
    whole, tasks = summary(table), task_names(table)
    rows = []
    for label in mean.index:
        cells = [_cell(mean.loc[label, task], spread.loc[label, task]) for task in tasks]
        line = whole.loc[label]
        change = "" if label == REFERENCE else _signed(line["change"])
        rows.append((label, *cells, _percent(line["average"]), change, _rank(line["rank"])))
    best = {(int(mean[task].argmax()), c) for c, task in enumerate(tasks, start=1)}
    rows += _paper_rows(paper, tasks)
    head = tuple(f"{shots} shot" for _, shots in tasks)
    head = ("method", *head, "average", f"to {REFERENCE}", "rank")
    groups = (*_spans(table, tasks), ("", 3))
    notes = _notes(table, whole, with_paper=len(rows) > len(mean))
    return Grid(title, groups, head, tuple(rows), frozenset(best), notes)


def _spans(table: pd.DataFrame, tasks: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    metrics = table.drop_duplicates("data").set_index("data")["metric"]
    return [
        (f"{name} ({metric.replace('_', ' ')})", sum(data == name for data, _ in tasks))
        for name, metric in metrics.items()
    ]


def _notes(table: pd.DataFrame, whole: pd.DataFrame, *, with_paper: bool) -> tuple[str, ...]:
    counts = table.groupby(["label", "data", "shots"]).size()
    least, most = counts.min(), counts.max()
    episodes = f"{most}" if least == most else f"{least} to {most}"
    notes = [f"Percent; mean ± standard deviation over {episodes} episodes (support sets)."]
    if whole["average"].isna().any():
        notes.append("Average, change and rank are of methods that were run on every task.")
    if least != most:
        notes.append("Where episodes differ in number, only the paired differences compare fairly.")
    if with_paper:
        notes.append("Below: the paper's own numbers (Zu et al. 2024).")
    return tuple(notes)


def _paper_rows(paper: str | None, tasks: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    rows = []
    for label, values in paper_values(paper).items():
        cells = [_percent(values.get(task, np.nan)) for task in tasks]
        if any(cells):
            known = [values[task] for task in tasks if task in values]
            average = _percent(float(np.mean(known))) if len(known) == len(tasks) else ""
            rows.append((f"{label} (paper)", *cells, average, "", ""))
    return rows


def _test_grids(tests: pd.DataFrame) -> list[Grid]:
    """Of the differences to linear and of all that are real, largest first."""
    if tests.empty:
        return []
    told = (tests["method"] == REFERENCE) | (tests["against"] == REFERENCE)
    of_interest = tests[told | (tests["p_holm"] < REAL)]
    turned = of_interest["difference"] < 0
    rows = []
    for (_, row), turn in zip(of_interest.iterrows(), turned, strict=True):
        one, other = (row["against"], row["method"]) if turn else (row["method"], row["against"])
        wins = row["pairs"] - row["wins"] if turn else row["wins"]
        error = "" if np.isnan(row["standard_error"]) else f" ± {100 * row['standard_error']:.1f}"
        rows.append(
            (
                f"{one} – {other}",
                f"{100 * abs(row['difference']):.1f}{error}",
                f"{wins} of {row['pairs']}",
                f"{row['p_holm']:.2g}",
                "yes" if row["p_holm"] < REAL else "no",
            )
        )
    rows.sort(key=lambda row: -float(row[1].split()[0]))
    notes = (
        "Points ± standard error over pairs of one data set, shots and episode. Wilcoxon's "
        f"signed-rank test, Holm's correction over all {len(tests)} pairs of methods. Episodes of "
        "one data set share test images: read p as a guide.",
    )
    head = ("methods", "difference", "ahead in", "p", "real")
    return [Grid("Which differences are real", (), head, tuple(rows), notes=notes)]


def _cost(suite: Suite, runs: pd.DataFrame) -> list[Grid]:
    """What each method costs, and the paper's seconds where it tells."""
    good = runs[runs["error"] == ""]
    paper = paper_seconds(suite.table)
    rows = []
    for label, part in good.groupby("label", sort=False):
        rows.append(
            (
                str(label),
                f"{part['trainable_parameters'].median():,.0f}",
                f"{part['fit_seconds'].median():.1f}",
                f"{part['peak_memory_mb'].max():,.0f}",
                *([f"{paper[str(label)]:.0f}" if str(label) in paper else ""] if paper else []),
            )
        )
    head: tuple[str, ...] = ("method", "trained parameters", "seconds a fit", "peak memory (MB)")
    if paper:
        head = (*head, "paper, A100 (s)")
    notes = ("Medians over runs; the peak is of the whole process.",)
    return [Grid("Cost", (), head, tuple(rows), notes=notes)]


def _cell(mean: float, spread: float) -> str:
    if np.isnan(mean):
        return ""
    return _percent(mean) + ("" if np.isnan(spread) else f" ± {100 * spread:.1f}")


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.1f} %"


def _rank(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f}"


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


# --- figures ---------------------------------------------------------------------------------


def draw(suite: Suite, runs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Figures by name: the paper's where the suite repeats one, and the spread of all runs."""
    metrics = " / ".join(dict.fromkeys(table["metric"])).replace("_", " ")
    figures: dict[str, Any] = {}
    if suite.table == "fig4":
        figures["figure4"] = _length(runs, table, metrics)
    if suite.table in ("fig5", "fig6"):
        figures[f"figure{suite.table[-1]}"] = plots.bars(table, ylabel=metrics)
    several = list(dict.fromkeys(shots for _, shots in task_names(table)))
    if len(several) > 1 and not figures:
        figures["figure3"] = plots.lines(
            table, "shots", over=several, xlabel="shots", ylabel=metrics
        )
    if not figures or suite.table is None or suite.table == "fig7":
        figures["figure7"] = plots.boxes(table, ylabel=metrics)
    return figures


def _length(runs: pd.DataFrame, table: pd.DataFrame, metrics: str) -> Any:
    """Figure 4: against the prompt's length; methods that have none are left out."""
    settings = runs.drop_duplicates("label").set_index("label")["settings"].map(json.loads)
    lengths = {label: s["length"] for label, s in settings.items() if "length" in s}
    kind = runs.drop_duplicates("label").set_index("label")["method"]
    some = table[table["label"].isin(lengths)]
    some = some.assign(length=some["label"].map(lengths), label=some["label"].map(kind))
    return plots.lines(
        some, "length", over=sorted(set(lengths.values())), xlabel="prompt length", ylabel=metrics
    )


# --- words -----------------------------------------------------------------------------------


def _facts(runs: pd.DataFrame) -> str:
    bad = int((runs["error"] != "").sum())
    hours = runs["seconds"].sum() / 3600 if "seconds" in runs else 0.0
    return (
        f"{len(runs):,} runs, {bad} of them failed; {runs['data'].nunique()} data sets, "
        f"{runs['label'].nunique()} methods, {hours:.1f} hours of computing"
    )


def _failed(runs: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for _, run in runs[runs["error"] != ""].head(20).iterrows():
        task = f"{run['data']}, {shots_text(run['shots'])} shots, episode {run['episode']}"
        name = f"{run['label']} on {task}"
        rows.append({"name": shown(name), "error": shown(run["error"].strip().splitlines()[-1])})
    return rows
