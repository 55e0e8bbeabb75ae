"""What the runs of a benchmark say: means and spreads, ranks, and which differences are real.

Runs are compared in pairs: two methods on the same data, shots and episode (support set), each the
mean of its repeats. Whether their difference is real is asked by Wilcoxon's signed-rank test over
those pairs, with Holm's correction for having asked of every two methods. Episodes of one data set
share most of their test images, and an episode's support sets of fewer shots are parts of those of
more: pairs are not wholly independent, so read p as a guide.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medept.benchmark.results import read_rows, read_suite_of
from medept.benchmark.suite import Suite
from medept.errors import DataError

REFERENCE = "linear"
"""What changes are relative to, as in the paper."""

KEYS = ("encoder", "data", "shots", "label", "episode", "metric")
"""What a score is of."""

MEAN = "mean"
"""In place of shots: the mean over all of them."""


def read_benchmark(folder: Path) -> tuple[Suite, pd.DataFrame]:
    """The suite last run in a folder, and all runs there; failed ones have an ``error``.

    Raises:
        InputError: if ``medept bench`` has not written there, or a file is damaged.
    """
    suite, rows = read_suite_of(folder), read_rows(folder)
    if not rows:
        raise DataError(f"{folder}: no run has ended yet")
    return suite, pd.DataFrame(rows)


def scores(
    runs: pd.DataFrame, *, as_in_paper: bool = False, of: Literal["episode", "run"] = "episode"
) -> pd.DataFrame:
    """One row an episode of a method: data, encoder, shots (text), label, episode, score, metric.

    The score is the mean over repeats (with ``of="run"`` each has a row) of ``map`` for multi-label
    data, else of ``accuracy`` where the paper reports that, else of ``balanced_accuracy``. Failed
    runs are left out.
    """
    good = runs[runs["error"] == ""].copy()
    if good.empty:
        raise DataError("every run failed: their tracebacks are in results.parquet")
    single = "accuracy" if as_in_paper else "balanced_accuracy"
    good["metric"], good["score"] = single, np.nan
    for metric in (single, "map"):
        if metric in good:
            has = good[metric].notna()
            good.loc[has, "metric"], good.loc[has, "score"] = metric, good.loc[has, metric]
    good["shots"] = [shots_text(shots) for shots in good["shots"]]
    keys = [*KEYS, "seed"] if of == "run" else [*KEYS]
    return good.groupby(keys, sort=False)["score"].mean().reset_index()


def repeat_spread(each: pd.DataFrame) -> pd.Series:
    """By label: standard deviation over the repeats of one episode, pooled over episodes.

    Empty where no episode was repeated.

    Args:
        each: one row a run, as :func:`scores` gives it.
    """
    variances = each.groupby([*KEYS], sort=False)["score"].var().dropna()
    return variances.groupby("label", sort=False).mean() ** 0.5


def over_shots(table: pd.DataFrame) -> pd.DataFrame:
    """Scores with one row for all shots of an episode, their mean; those without all left out."""
    each = table.groupby(["label", "data", "episode"])["shots"].transform("nunique")
    whole = table[each == table.groupby("data")["shots"].transform("nunique")]
    return whole.assign(shots=MEAN).groupby([*KEYS], sort=False)["score"].mean().reset_index()


def shots_text(shots: Any) -> str:
    """``5``, ``20%`` or ``all``."""
    if shots is None or np.isnan(shots):
        return "all"
    return f"{shots:.0%}" if shots < 1 else str(int(shots))


def task_names(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Every (data, shots) in the paper's order: by data set, then from few shots to all."""
    found = set(zip(table["data"], table["shots"], strict=True))
    order = list(dict.fromkeys(table["data"]))
    return sorted(found, key=lambda task: (order.index(task[0]), amount(task[1])))


def amount(shots: str) -> float:
    """A number to sort shots by, as :func:`shots_text` writes them."""
    last = {"all": 1e9, MEAN: 1e10}
    return last.get(shots) or float(shots.rstrip("%")) + 1e6 * shots.endswith("%")


def means(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over episodes: labels down, (data, shots) across."""
    grouped = table.groupby(["label", "data", "shots"], sort=False)["score"]
    tasks, labels = task_names(table), list(dict.fromkeys(table["label"]))

    columns = pd.MultiIndex.from_tuples(tasks)

    def wide(values: Any) -> pd.DataFrame:
        found = values.unstack(["data", "shots"])
        return pd.DataFrame(found).reindex(index=labels, columns=columns)

    return wide(grouped.mean()), wide(grouped.std())


def summary(mean: pd.DataFrame) -> pd.DataFrame:
    """Labels down: ``average`` over tasks, ``change`` against linear in %, and mean ``rank``.

    Of methods that were run on every task; the others have NaN.

    Args:
        mean: labels down, tasks across, as :func:`means` gives it.
    """
    complete = mean.dropna()
    average = complete.mean(axis=1)
    base = average.get(REFERENCE, np.nan)
    rank = complete.rank(ascending=False).mean(axis=1)
    found = pd.DataFrame({"average": average, "change": 100 * (average / base - 1), "rank": rank})
    return found.reindex(mean.index)


def paired_tests(table: pd.DataFrame) -> pd.DataFrame:
    """For every two methods: pairs, mean difference, its standard error, p and Holm's p.

    In so many pairs the first is ``ahead``, and in so many ``behind``.
    """
    from scipy.stats import wilcoxon

    wide = table.pivot_table(
        index=["encoder", "data", "shots", "episode"], columns="label", values="score"
    )
    rows = []
    for one, other in combinations(dict.fromkeys(table["label"]), 2):
        apart = (wide[one] - wide[other]).dropna().to_numpy()
        if not len(apart):
            continue
        p = float(wilcoxon(apart).pvalue) if apart.any() else 1.0
        error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else np.nan
        rows.append(
            {
                "method": one,
                "against": other,
                "pairs": len(apart),
                "difference": apart.mean(),
                "standard_error": error,
                "ahead": int((apart > 0).sum()),
                "behind": int((apart < 0).sum()),
                "p": p,
            }
        )
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p"].to_numpy())) if len(found) else found


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979) of p values (m,)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    corrected = np.empty(len(p))
    corrected[order] = steps
    return corrected


@cache
def _paper() -> dict[str, Any]:
    return json.loads(files(__package__).joinpath("paper.json").read_text(encoding="utf-8"))


def paper_values(table: str | None, drawn: Collection[str] = ()) -> pd.DataFrame:
    """A table of the paper, as shares of 1: labels down, (data, shots) across. Empty if unknown.

    Args:
        drawn: data sets that are not the paper's, whatever their names: they are left out.
    """
    values = _paper()["tables"].get(table, {})
    rows = {
        label: {_task(name): value / 100 for name, value in row.items()}
        for label, row in values.items()
    }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found[[task for task in found.columns if task[0] not in drawn]]


def paper_seconds(table: str | None) -> dict[str, float]:
    """Seconds of fine-tuning in the paper: label -> seconds. Empty where it gives none."""
    return _paper()["seconds"].get(table, {})


def _task(name: str) -> tuple[str, str]:
    data, shots = name.rsplit("-", 1)
    return data if data == "isic2018" else f"medfmc-{data}", shots
