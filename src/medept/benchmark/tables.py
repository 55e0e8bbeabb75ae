"""A benchmark's tables in the paper's layout: scores, which differences are real, costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from medept.benchmark.grid import Grid
from medept.benchmark.scores import (
    REFERENCE,
    means,
    over_shots,
    paper_seconds,
    paper_values,
    summary,
)
from medept.benchmark.suite import Suite
from medept.report.plots import metric_text, shots_head

REAL = 0.05
"""Below this p, corrected, a difference is called real."""


def score_grids(suite: Suite, title: str, table: pd.DataFrame, repeats: pd.Series) -> list[Grid]:
    """Of one encoder; for figure 5 and table 3 another in the form that the paper gives.

    Args:
        table: one row an episode.
        repeats: by label, the spread over repeats of one episode.
    """
    paper = paper_values(suite.table, drawn=suite.drawn)
    grids = [_grid(title, table, paper, repeats)]
    if suite.table == "fig5" and len(whole := over_shots(table)):
        grids.append(_grid(f"{title}, mean over shots", whole, paper, pd.Series()))
    if suite.table == "table3":
        grids.append(_against_frozen(f"{title}, change against frozen prompts", table, paper))
    return grids


def _grid(title: str, table: pd.DataFrame, paper: pd.DataFrame, repeats: pd.Series) -> Grid:
    """Mean ± standard deviation over episodes, in percent; below them the paper's own.

    Where episodes were repeated, how far apart repeats of one lie stands in the last column.
    """
    mean, spread = means(table)
    theirs = paper.reindex(columns=mean.columns).dropna(how="all")
    rows = [*_lines(mean, spread), *_lines(theirs, None, of=" (paper)")]
    best = {(int(mean[task].argmax()), c) for c, task in enumerate(mean.columns, start=1)}
    head = ("method", *map(shots_head, mean.columns.get_level_values(1)))
    head = (*head, "average", f"to {REFERENCE}", "rank")
    if len(repeats):
        head = (*head, "repeats")
        rows = [(*row, _spread(repeats.get(row[0], np.nan)).strip()) for row in rows]
    groups = (*_spans(table), ("", 4 if len(repeats) else 3))
    notes = _notes(table, mean, with_paper=len(theirs) > 0, repeated=len(repeats) > 0)
    return Grid(title, groups, head, tuple(rows), frozenset(best), notes)


def _against_frozen(title: str, table: pd.DataFrame, paper: pd.DataFrame) -> Grid:
    """By how much each task's score differs from that of prompts which stay as they start.

    A method stands against itself with frozen prompts, and one without prompts against VPT.
    """
    mean, _ = means(table)
    rows = []
    for values, of in ((mean, ""), (paper.reindex(columns=mean.columns), " (paper)")):
        for label in values.index:
            own = f"{label}, frozen"
            against = own if own in values.index else "vpt, frozen"
            if label.endswith(", frozen") or against not in values.index:
                continue
            change = 100 * (values.loc[label] / values.loc[against] - 1)
            cells = [_number(x, "+.1f", " %") for x in (*change, change.mean())]
            rows.append((f"{label} against {against}{of}", *cells))
    head = ("method", *map(shots_head, mean.columns.get_level_values(1)), "average")
    return Grid(title, (*_spans(table), ("", 1)), head, tuple(rows))


def _lines(
    mean: pd.DataFrame, spread: pd.DataFrame | None, of: str = ""
) -> Iterator[tuple[str, ...]]:
    """A row a method: its tasks, their average, what it is to linear, its mean rank."""
    cells = mean.map(_percent)
    if spread is not None:
        cells += spread.map(_spread)
    whole = summary(mean)
    cells["average"] = whole["average"].map(_percent)
    cells["change"] = whole["change"].map(lambda x: _number(x, "+.1f", " %"))
    cells.loc[cells.index == REFERENCE, "change"] = ""
    cells["rank"] = whole["rank"].map(lambda x: _number(x, ".1f"))
    for label, *row in cells.itertuples():
        yield (f"{label}{of}", *row)


def _spans(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Data sets with their metrics, and how many columns each has."""
    metrics = table.drop_duplicates("data").set_index("data")["metric"]
    columns = table.groupby("data")["shots"].nunique()
    return [
        (f"{name} ({metric_text(metric)})", int(columns[str(name)]))
        for name, metric in metrics.items()
    ]


def _notes(
    table: pd.DataFrame, mean: pd.DataFrame, *, with_paper: bool, repeated: bool
) -> tuple[str, ...]:
    counts = table.groupby(["label", "data", "shots"]).size()
    least, most = counts.min(), counts.max()
    episodes = f"{most}" if least == most else f"{least} to {most}"
    notes = [f"Percent; mean ± standard deviation over {episodes} episodes (support sets)."]
    if repeated:
        notes.append("An episode counts with the mean of its repeats, which lie ± repeats apart.")
    if mean.isna().any(axis=None):
        notes.append("Average, change and rank are of methods that were run on every task.")
    if least != most:
        notes.append("Where episodes differ in number, only the paired differences compare fairly.")
    if with_paper:
        notes.append("Below: the paper's own numbers (Zu et al. 2024), on its encoder.")
    return tuple(notes)


def difference_grids(tests: pd.DataFrame) -> list[Grid]:
    """Of the differences to linear and of all that are real, largest first."""
    if tests.empty:
        return []
    named = (tests["method"] == REFERENCE) | (tests["against"] == REFERENCE)
    chosen = tests[named | (tests["p_holm"] < REAL)]
    chosen = chosen.sort_values("difference", key=abs, ascending=False)
    notes = (
        "Points ± standard error over pairs of one data set, shots and episode. Wilcoxon's "
        f"signed-rank test, Holm's correction over all {len(tests)} pairs of methods. Episodes of "
        "one data set share test images, shots of one episode support images: read p as a guide.",
    )
    head = ("methods", "difference", "ahead in", "p", "real")
    rows = tuple(_test_row(row) for _, row in chosen.iterrows())
    return [Grid("Which differences are real", (), head, rows, notes=notes)]


def _test_row(row: pd.Series) -> tuple[str, ...]:
    """The better of two methods first."""
    methods, ahead = [row["method"], row["against"]], row["ahead"]
    if row["difference"] < 0:
        methods.reverse()
        ahead = row["behind"]
    return (
        " – ".join(methods),
        f"{100 * abs(row['difference']):.1f}" + _spread(row["standard_error"]),
        f"{ahead} of {row['pairs']}",
        f"{row['p_holm']:.2g}",
        "yes" if row["p_holm"] < REAL else "no",
    )


def cost_grid(suite: Suite, title: str, runs: pd.DataFrame) -> Grid:
    """What each method costs, and the paper's seconds where it gives them."""
    columns = {
        "trained parameters": ("trainable_parameters", "median", ",.0f"),
        "seconds a fit": ("fit_seconds", "median", ".1f"),
        "peak memory (MB)": ("peak_memory_mb", "max", ",.0f"),
        "on the GPU (MB)": ("peak_gpu_memory_mb", "max", ",.0f"),
    }
    good = runs[runs["error"] == ""].groupby("label", sort=False)
    cells = {
        head: [_number(value, form) for value in good[column].agg(how)]
        for head, (column, how, form) in columns.items()
        if column in runs and runs[column].notna().any()
    }
    labels = [str(label) for label in good.groups]
    paper = {} if suite.drawn else paper_seconds(suite.table)
    if paper:
        cells["paper, A100 (s)"] = [
            _number(paper.get(label, float("nan")), ".0f") for label in labels
        ]
    notes = ("Medians over runs; the peaks are the highest, of the whole process.",)
    rows = tuple(zip(labels, *cells.values(), strict=True))
    return Grid(title, (), ("method", *cells), rows, notes=notes)


def _percent(share: float) -> str:
    return _number(100 * share, ".1f")


def _spread(share: float) -> str:
    return "" if np.isnan(share) else f" ± {100 * share:.1f}"


def _number(value: float, form: str, unit: str = "") -> str:
    """Nothing where it is not known."""
    return "" if np.isnan(value) else f"{value:{form}}{unit}"
