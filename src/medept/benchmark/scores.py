"""Scores of the runs of a benchmark, and their means, spreads and ranks.

Tables have one row per score: ``encoder``, ``data``, ``shots`` (text), ``label`` (the method's),
``episode``, ``metric`` and ``score``. A task is a data set with a number of shots.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from medept.benchmark.results import RESULTS
from medept.errors import DataError

REFERENCE = "linear"
"""The method that others are compared with, as in the paper."""

KEYS = ("encoder", "data", "shots", "label", "episode", "metric")
"""The columns that identify a score."""

MEAN = "mean"
"""In place of shots: the mean over all shots."""


def scores(
    runs: pd.DataFrame, *, as_in_paper: bool = False, per: Literal["episode", "run"] = "episode"
) -> pd.DataFrame:
    """The score of each method in each episode, as a mean over its repeats.

    It is ``map`` for multi-label data; for classes ``balanced_accuracy``, or ``accuracy`` as in
    the paper. Failed runs are left out.

    Args:
        runs: the rows of all runs.
        as_in_paper: whether to take ``accuracy``.
        per: ``run`` for the score of every run instead, with a column ``seed``.

    Raises:
        InputError: if all runs failed.
    """
    good = runs[runs["error"] == ""].copy()
    if good.empty:
        raise DataError(f"every run failed: their tracebacks are in {RESULTS}")
    single = "accuracy" if as_in_paper else "balanced_accuracy"
    good["metric"], good["score"] = single, np.nan
    for metric in (single, "map"):
        if metric in good:
            defined = good[metric].notna()
            good.loc[defined, "metric"] = metric
            good.loc[defined, "score"] = good.loc[defined, metric]
    good["shots"] = [shots_text(shots) for shots in good["shots"]]
    keys = [*KEYS, "seed"] if per == "run" else [*KEYS]
    return good.groupby(keys, sort=False)["score"].mean().reset_index()


def repeat_deviation(table: pd.DataFrame) -> pd.Series:
    """Standard deviation over the repeats of an episode, by method, pooled over episodes.

    It is empty if no episode was repeated.

    Args:
        table: the score of every run, from :func:`scores` with ``per="run"``.
    """
    variances = table.groupby([*KEYS], sort=False)["score"].var().dropna()
    return variances.groupby("label", sort=False).mean() ** 0.5


def mean_over_shots(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over all shots of an episode; methods that lack some of the shots are left out."""
    count = table.groupby(["label", "data", "episode"])["shots"].transform("nunique")
    complete = table[count == table.groupby("data")["shots"].transform("nunique")]
    return complete.assign(shots=MEAN).groupby([*KEYS], sort=False)["score"].mean().reset_index()


def shots_text(shots: Any) -> str:
    """Shots as text: a number, a percentage, or ``all``.

    >>> shots_text(5), shots_text(0.2), shots_text(None)
    ('5', '20%', 'all')
    """
    if shots is None or np.isnan(shots):
        return "all"
    return f"{shots:.0%}" if shots < 1 else str(int(shots))


def shots_order(shots: str) -> float:
    """A key that sorts the texts of :func:`shots_text` from few to many, and ``mean`` last.

    >>> sorted(["all", "20%", "10", "5"], key=shots_order)
    ['5', '10', '20%', 'all']
    """
    last = {"all": 1e9, MEAN: 1e10}
    return last.get(shots) or float(shots.rstrip("%")) + 1e6 * shots.endswith("%")


def tasks(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Every (data set, shots): data sets in order of appearance, shots from few to many."""
    found = set(zip(table["data"], table["shots"], strict=True))
    order = list(dict.fromkeys(table["data"]))
    return sorted(found, key=lambda task: (order.index(task[0]), shots_order(task[1])))


def means(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over episodes: methods down, (data set, shots) across."""
    grouped = table.groupby(["label", "data", "shots"], sort=False)["score"]
    labels = list(dict.fromkeys(table["label"]))
    columns = pd.MultiIndex.from_tuples(tasks(table))

    def wide(values: Any) -> pd.DataFrame:
        found = values.unstack(["data", "shots"])
        return pd.DataFrame(found).reindex(index=labels, columns=columns)

    return wide(grouped.mean()), wide(grouped.std())


def averages(mean: pd.DataFrame) -> pd.DataFrame:
    """Each method's ``average`` over tasks, its ``change`` against linear in %, and mean ``rank``.

    All are NaN for a method that lacks a task.

    Args:
        mean: methods down, tasks across, from :func:`means`.

    >>> mean = pd.DataFrame({"colon": [0.5, 0.6], "chest": [0.3, 0.2]}, index=["linear", "ept"])
    >>> averages(mean).round(2)
            average  change  rank
    linear      0.4     0.0   1.5
    ept         0.4     0.0   1.5
    """
    complete = mean.dropna()
    average = complete.mean(axis=1)
    base = average.get(REFERENCE, np.nan)
    rank = complete.rank(ascending=False).mean(axis=1)
    found = pd.DataFrame({"average": average, "change": 100 * (average / base - 1), "rank": rank})
    return found.reindex(mean.index)


def metric_text(metric: str) -> str:
    """The name of a metric in tables and figures.

    >>> metric_text("map"), metric_text("balanced_accuracy")
    ('mAP', 'balanced accuracy')
    """
    return "mAP" if metric == "map" else metric.replace("_", " ")


def shots_heading(shots: str) -> str:
    """The heading of a column of shots.

    >>> shots_heading("1"), shots_heading("5"), shots_heading("20%")
    ('1 shot', '5 shots', '20%')
    """
    return f"{shots} shot{'s' * (shots != '1')}" if shots.isdigit() else shots
