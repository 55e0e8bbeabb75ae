"""Paired tests against scipy, and Holm's correction by hand."""

from __future__ import annotations

import numpy as np
import pytest
from fake_runs import fake_runs
from scipy.stats import wilcoxon

from medept.benchmark.scores import scores
from medept.benchmark.significance import holm, paired_tests


def test_differences_are_of_pairs() -> None:
    table = scores(fake_runs())
    tests = paired_tests(table)
    assert len(tests) == 3
    row = tests[(tests.method == "linear") & (tests.against == "ept")].iloc[0]
    wide = table.pivot(index=["data", "shots", "episode"], columns="label", values="score")
    apart = wide.linear - wide.ept
    assert row.pairs == 20
    assert row.difference == pytest.approx(apart.mean())
    assert row.standard_error == pytest.approx(apart.sem())
    assert (row.ahead, row.behind) == ((apart > 0).sum(), (apart < 0).sum())
    assert row.p == pytest.approx(wilcoxon(wide.linear, wide.ept).pvalue)
    assert (tests.p_holm >= tests.p).all()


def test_holms_correction_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
