"""Scores, means, ranks: against pandas and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_runs
from scipy.stats import rankdata

from medept.benchmark.scores import averages, mean_over_shots, means, scores


def test_scores_are_means_over_repeats_of_the_papers_metric() -> None:
    runs = fake_runs()
    table = scores(runs, as_in_paper=True)
    assert dict(zip(table.data, table.metric, strict=True)) == {
        "medfmc-chest": "map",
        "medfmc-colon": "accuracy",
    }
    own = runs[(runs.label == "ept") & (runs.data == "medfmc-colon") & (runs.shots == 5)]
    expected = own.groupby("episode").accuracy.mean().to_numpy()
    chosen = table[(table.label == "ept") & (table.data == "medfmc-colon") & (table.shots == "5")]
    assert chosen.score.to_numpy() == pytest.approx(expected)
    mean, spread = means(table)
    assert mean.loc["ept", ("medfmc-colon", "5")] == pytest.approx(expected.mean())
    assert spread.loc["ept", ("medfmc-colon", "5")] == pytest.approx(expected.std(ddof=1))
    assert set(scores(runs).metric) == {"map", "balanced_accuracy"}


def test_average_change_and_rank() -> None:
    table = scores(fake_runs())
    mean, _ = means(table)
    found = averages(mean)
    assert found.average.to_numpy() == pytest.approx(mean.to_numpy().mean(axis=1))
    base = found.average["linear"]
    assert found.change["vpt"] == pytest.approx(100 * (found.average["vpt"] - base) / base)
    ranks = rankdata(-mean.to_numpy(), axis=0).mean(axis=1)
    assert found["rank"].to_numpy() == pytest.approx(ranks)
    short = table[~((table.label == "vpt") & (table.shots == "5"))]
    assert np.isnan(averages(means(short)[0]).average["vpt"]), (
        "a method without all tasks has no average"
    )


def test_means_over_shots_leave_out_who_has_not_all() -> None:
    table = scores(fake_runs())
    found = mean_over_shots(table).set_index(["data", "label", "episode"]).score
    expected = table.groupby(["data", "label", "episode"]).score.mean()
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index())
    short = table[~((table.label == "vpt") & (table.shots == "5") & (table.episode == "3"))]
    assert len(mean_over_shots(short)) == len(found) - 2  # one of each data set
