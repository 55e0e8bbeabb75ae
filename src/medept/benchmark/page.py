"""The tables and figures of a benchmark: in the paper's layout, beside the paper's numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from medept.benchmark.grid import as_latex, as_markdown
from medept.benchmark.scores import (
    REFERENCE,
    amount,
    over_shots,
    paired_tests,
    read_benchmark,
    repeat_spread,
    scores,
    shots_text,
    task_names,
)
from medept.benchmark.suite import Suite
from medept.benchmark.tables import cost_grid, difference_grids, score_grids
from medept.files import write_table, write_text
from medept.report import plots
from medept.report.html import picture, render, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
SIZE = "numbers in the prompts"


def write_benchmark(folder: Path) -> Path:
    """Write ``report.html``, ``tables.md``, ``tables.tex``, ``tests.csv`` and figures to a folder.

    Raises:
        InputError: if ``medept bench`` has not written there, or every run failed.
    """
    suite, runs = read_benchmark(folder)
    runs = in_order(runs, suite)
    table = scores(runs, as_in_paper=suite.table is not None)
    tests = paired_tests(table)
    grids, costs, figures = [], [], {}
    for encoder, part in table.groupby("encoder", sort=False):
        its_runs = runs[runs["encoder"] == encoder]
        repeats = repeat_spread(scores(its_runs, as_in_paper=suite.table is not None, of="run"))
        grids += score_grids(suite, f"{suite.title}: {encoder}", part, repeats)
        costs.append(cost_grid(suite, f"Cost: {encoder}", its_runs))
        for name, figure in draw(suite, its_runs, part).items():
            figures[name if name not in figures else f"{name}, {encoder}"] = figure
    grids += [*difference_grids(tests), *costs]
    write_table(folder / "results.parquet", runs)
    write_table(folder / "tests.csv", tests)
    write_text(folder / "tables.md", "\n\n".join(map(as_markdown, grids)) + "\n")
    write_text(folder / "tables.tex", "\n\n".join(map(as_latex, grids)) + "\n")
    for name, figure in figures.items():
        plots.save(figure, folder / "figures" / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)}.png")
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


# --- figures ---------------------------------------------------------------------------------


def draw(suite: Suite, runs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Figure]:
    """The figures of one encoder by name: the paper's that the suite repeats, or 3 and 7."""
    if suite.table in ("fig4", "fig5", "fig6"):
        whole = over_shots(table)
        name = f"figure{suite.table[-1]}"
        if suite.table != "fig4":
            return {name: plots.dots(whole, REFERENCE)} if len(whole) else {}
        prompted = _prompted(whole, runs)
        return {name: plots.lines(prompted, "size", xlabel=SIZE)} if len(prompted) else {}
    figures = {}
    shots = list(dict.fromkeys(shots for _, shots in task_names(table)))
    if len(shots) > 1 and suite.table != "fig7":
        figures["figure3"] = plots.lines(table, "shots", over=shots, xlabel="shots")
    if suite.table in (None, "fig7"):
        each = scores(runs, as_in_paper=suite.table is not None, of="run")
        figures["figure7"] = plots.boxes(
            each.sort_values("shots", key=lambda s: s.map(amount), kind="stable"), REFERENCE
        )
    return figures


def _prompted(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of methods whose prompts have a length, and the ``size`` of these.

    Lengths of different methods can be compared in it: a prompt of EPT has one row per token, and
    one of VPT as many numbers as tokens are wide.
    """
    first = runs[runs["error"] == ""].drop_duplicates("label").set_index("label")
    prompted = first[["length" in json.loads(text) for text in first["settings"]]]
    head = first["trainable_parameters"].get(REFERENCE, 0)
    some = table[table["label"].isin(prompted.index)]
    return some.assign(
        size=some["label"].map(prompted["trainable_parameters"] - head),
        label=some["label"].map(prompted["method"]),
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
