"""The tables of a benchmark, in the layout of the paper: scores, differences and costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from medept.benchmark.paper import paper_seconds, paper_values
from medept.benchmark.scores import (
    REFERENCE,
    averages,
    mean_over_shots,
    means,
    metric_text,
    shots_heading,
)
from medept.benchmark.suite import Suite
from medept.benchmark.text_table import TextTable

REAL = 0.05
"""A difference is called real if its corrected p is below this."""


def score_tables(
    suite: Suite, title: str, table: pd.DataFrame, deviations: pd.Series
) -> list[TextTable]:
    """The scores of one encoder; for figure 5 and table 3 also in the form that the paper gives.

    Args:
        table: one row per method and episode, from :func:`medept.benchmark.scores.scores`.
        deviations: over the repeats of an episode, by method.
    """
    paper = paper_values(suite.table, synthetic=suite.synthetic)
    tables = [_score_table(title, table, paper, deviations)]
    if suite.table == "fig5" and len(whole := mean_over_shots(table)):
        tables.append(_score_table(f"{title}, mean over shots", whole, paper, pd.Series()))
    if suite.table == "table3":
        tables.append(_against_frozen(f"{title}, change against frozen prompts", table, paper))
    return tables


def _score_table(
    title: str, table: pd.DataFrame, paper: pd.DataFrame, deviations: pd.Series
) -> TextTable:
    """Mean ± standard deviation over episodes in percent, and below them the paper's numbers.

    If episodes were repeated, the last column is the standard deviation over repeats.
    """
    mean, deviation = means(table)
    paper = paper.reindex(columns=mean.columns).dropna(how="all")
    rows = [*_score_rows(mean, deviation), *_score_rows(paper, None, suffix=" (paper)")]
    best = {(int(mean[task].argmax()), c) for c, task in enumerate(mean.columns, start=1)}
    head = ("method", *map(shots_heading, mean.columns.get_level_values(1)))
    head = (*head, "average", f"to {REFERENCE}", "rank")
    if len(deviations):
        head = (*head, "repeats")
        rows = [(*row, _deviation(deviations.get(row[0], np.nan)).strip()) for row in rows]
    groups = (*_groups(table), ("", 4 if len(deviations) else 3))
    notes = _notes(table, mean, with_paper=len(paper) > 0, repeated=len(deviations) > 0)
    return TextTable(title, groups, head, tuple(rows), frozenset(best), notes)


def _against_frozen(title: str, table: pd.DataFrame, paper: pd.DataFrame) -> TextTable:
    """Change of each score, in percent, against prompts that are frozen at their initial values.

    A method with prompts is compared with itself, and a method without prompts with VPT.
    """
    mean, _ = means(table)
    rows = []
    for values, suffix in ((mean, ""), (paper.reindex(columns=mean.columns), " (paper)")):
        for label in values.index:
            own = f"{label}, frozen"
            against = own if own in values.index else "vpt, frozen"
            if label.endswith(", frozen") or against not in values.index:
                continue
            change = 100 * (values.loc[label] / values.loc[against] - 1)
            cells = [_number(x, "+.1f", " %") for x in (*change, change.mean())]
            rows.append((f"{label} against {against}{suffix}", *cells))
    head = ("method", *map(shots_heading, mean.columns.get_level_values(1)), "average")
    return TextTable(title, (*_groups(table), ("", 1)), head, tuple(rows))


def _score_rows(
    mean: pd.DataFrame, deviation: pd.DataFrame | None, suffix: str = ""
) -> Iterator[tuple[str, ...]]:
    """A row per method: its tasks, their average, the change against linear, and its mean rank."""
    cells = mean.map(_percent)
    if deviation is not None:
        cells += deviation.map(_deviation)
    over_tasks = averages(mean)
    cells["average"] = over_tasks["average"].map(_percent)
    cells["change"] = over_tasks["change"].map(lambda x: _number(x, "+.1f", " %"))
    cells.loc[cells.index == REFERENCE, "change"] = ""
    cells["rank"] = over_tasks["rank"].map(lambda x: _number(x, ".1f"))
    for label, *row in cells.itertuples():
        yield (f"{label}{suffix}", *row)


def _groups(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Each data set with its metric, and its number of columns."""
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
        notes.append(
            "The score of an episode is the mean of its repeats; the last column is their "
            "standard deviation."
        )
    if mean.isna().any(axis=None):
        notes.append("Average, change and rank are given for methods that were run on every task.")
    if least != most:
        notes.append(
            "As methods have different numbers of episodes, only paired differences are fair."
        )
    if with_paper:
        notes.append("Below: the numbers of the paper (Zu et al. 2024), on its own encoder.")
    return tuple(notes)


def difference_tables(tests: pd.DataFrame) -> list[TextTable]:
    """The differences to linear, and all that are real, the largest first.

    Args:
        tests: from :func:`medept.benchmark.significance.paired_tests`.
    """
    if tests.empty:
        return []
    with_reference = (tests["method"] == REFERENCE) | (tests["against"] == REFERENCE)
    chosen = tests[with_reference | (tests["p_holm"] < REAL)]
    chosen = chosen.sort_values("difference", key=abs, ascending=False)
    notes = (
        "Percentage points ± standard error over pairs of the same data set, shots and episode. p: "
        f"Wilcoxon's signed-rank test with Holm's correction for all {len(tests)} pairs of "
        "methods. Episodes of one data set share test images, and different shots of one episode "
        "share support images, so read p as a guide.",
    )
    head = ("methods", "difference", "ahead in", "p", "real")
    rows = tuple(_difference_row(row) for _, row in chosen.iterrows())
    return [TextTable("Which differences are real", (), head, rows, notes=notes)]


def _difference_row(row: pd.Series) -> tuple[str, ...]:
    """The cells of two methods, the better one first."""
    methods, ahead = [row["method"], row["against"]], row["ahead"]
    if row["difference"] < 0:
        methods.reverse()
        ahead = row["behind"]
    return (
        " – ".join(methods),
        f"{100 * abs(row['difference']):.1f}" + _deviation(row["standard_error"]),
        f"{ahead} of {row['pairs']}",
        f"{row['p_holm']:.2g}",
        "yes" if row["p_holm"] < REAL else "no",
    )


def cost_table(suite: Suite, title: str, runs: pd.DataFrame) -> TextTable:
    """Parameters, time and memory of each method, and the paper's seconds if it gives them."""
    columns = {
        "trained parameters": ("trainable_parameters", "median", ",.0f"),
        "seconds per fit": ("fit_seconds", "median", ".1f"),
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
    paper = {} if suite.synthetic else paper_seconds(suite.table)
    if paper:
        cells["paper, A100 (s)"] = [
            _number(paper.get(label, float("nan")), ".0f") for label in labels
        ]
    notes = ("Medians over runs; peak memory is the highest over runs, of the whole process.",)
    rows = tuple(zip(labels, *cells.values(), strict=True))
    return TextTable(title, (), ("method", *cells), rows, notes=notes)


def _percent(share: float) -> str:
    return _number(100 * share, ".1f")


def _deviation(share: float) -> str:
    return "" if np.isnan(share) else f" ± {100 * share:.1f}"


def _number(value: float, form: str, unit: str = "") -> str:
    """A formatted number; empty for NaN."""
    return "" if np.isnan(value) else f"{value:{form}}{unit}"
