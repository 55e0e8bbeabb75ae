"""The report of a benchmark: its tables beside the paper's numbers, and its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from medept.benchmark.figures import draw_figures
from medept.benchmark.results import RESULTS, read_benchmark
from medept.benchmark.scores import repeat_deviation, scores, shots_text
from medept.benchmark.significance import paired_tests
from medept.benchmark.suite import Suite
from medept.benchmark.tables import cost_table, difference_tables, score_tables
from medept.benchmark.text_table import TextTable, to_latex, to_markdown
from medept.files import write_table, write_text
from medept.report import plots
from medept.report.html import picture, render, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"


def write_benchmark(folder: Path) -> Path:
    """Write the report of the benchmark in a folder.

    The files are ``report.html``, ``tables.md``, ``tables.tex``, ``tests.csv`` (which differences
    are real), ``results.parquet`` and ``figures``.

    Returns:
        the page.

    Raises:
        InputError: if ``medept bench`` has not written there, or every run failed.
    """
    suite, runs = read_benchmark(folder)
    runs = in_suite_order(runs, suite)
    table = scores(runs, as_in_paper=suite.table is not None)
    tests = paired_tests(table)
    tables, figures = _tables_and_figures(suite, runs, table, tests)
    write_table(folder / RESULTS, runs)
    write_table(folder / "tests.csv", tests)
    write_text(folder / "tables.md", "\n\n".join(map(to_markdown, tables)) + "\n")
    write_text(folder / "tables.tex", "\n\n".join(map(to_latex, tables)) + "\n")
    for name, figure in figures.items():
        plots.save(figure, folder / "figures" / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)}.png")
    page = render(
        "benchmark.html.j2",
        title=suite.title,
        facts=_facts(runs),
        tables=tables,
        figures=[{"uri": picture(figure), "name": name} for name, figure in figures.items()],
        failed=_failed(runs),
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def in_suite_order(runs: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Runs in the order of the suite's data sets and methods; those of others come last."""
    orders = {"label": list(suite.methods), "data": list(suite.data)}

    def position(column: pd.Series) -> pd.Series:
        names = orders[str(column.name)]
        return column.map(lambda x: names.index(x) if x in names else len(names))

    ordered = runs.sort_values(["data", "label"], key=position, kind="stable")
    return ordered.reset_index(drop=True)


def _tables_and_figures(
    suite: Suite, runs: pd.DataFrame, table: pd.DataFrame, tests: pd.DataFrame
) -> tuple[list[TextTable], dict[str, Figure]]:
    """For each encoder scores, costs and figures; for all together the differences."""
    tables, costs, figures = [], [], {}
    for encoder, part in table.groupby("encoder", sort=False):
        its_runs = runs[runs["encoder"] == encoder]
        each = scores(its_runs, as_in_paper=suite.table is not None, per="run")
        title = f"{suite.title}: {encoder}"
        tables += score_tables(suite, title, part, repeat_deviation(each))
        costs.append(cost_table(suite, f"Cost: {encoder}", its_runs))
        for name, figure in draw_figures(suite, its_runs, part).items():
            figures[name if name not in figures else f"{name}, {encoder}"] = figure
    return [*tables, *difference_tables(tests), *costs], figures


def _facts(runs: pd.DataFrame) -> str:
    bad = int((runs["error"] != "").sum())
    hours = runs["seconds"].sum() / 3600 if "seconds" in runs else 0.0
    return (
        f"{len(runs):,} runs, of which {bad} failed; {runs['data'].nunique()} data sets, "
        f"{runs['label'].nunique()} methods, {hours:.1f} hours of computing"
    )


def _failed(runs: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for _, run in runs[runs["error"] != ""].head(20).iterrows():
        task = f"{run['data']}, {shots_text(run['shots'])} shots, episode {run['episode']}"
        name = f"{run['label']} on {task}"
        rows.append({"name": shown(name), "error": shown(run["error"].strip().splitlines()[-1])})
    return rows
