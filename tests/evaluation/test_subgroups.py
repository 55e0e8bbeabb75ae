"""Subgroups: every number again with scikit-learn and pandas, and gaps that chance makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Page, run
from sklearn.metrics import recall_score, roc_auc_score

from medept import InputError
from medept.evaluation import OperatingPoint
from medept.evaluation.judge_subgroups import judge_subgroups
from medept.evaluation.subgroups import binned
from medept.phantoms import make_phantoms, write_phantoms

POINT = OperatingPoint(positive=["ill"], threshold=0.4, aim="threshold 0.4")
NAMES = ["well", "ill"]


def drawn(seed: int, n: int = 600, harm: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, targets and sites, in the last of which scores are worse by ``harm``."""
    random = np.random.default_rng(seed)
    y, site = random.integers(0, 2, n), random.integers(0, 4, n)
    logit = random.normal(size=n) + (2 - harm * (site == 3)) * (y - 0.5)
    p = 1 / (1 + np.exp(-logit))
    return np.stack([1 - p, p], axis=1), y, site.astype(str)


def test_each_subgroup_is_judged_by_itself() -> None:
    p, y, site = drawn(0)
    found = judge_subgroups({"site": site}, p, y, NAMES, points=[POINT])
    assert [one.value for one in found.each] == ["0", "1", "2", "3"]
    for one in found.each:
        rows = site == one.value
        told = p[rows, 1] >= 0.4
        assert (one.n, one.groups) == (rows.sum(), rows.sum())
        assert one.prevalence == pytest.approx(y[rows].mean())
        values = {name: metric.value for name, metric in one.metrics.items()}
        assert values == pytest.approx({
            "auroc": roc_auc_score(y[rows], p[rows, 1]),
            "sensitivity": recall_score(y[rows], told),
            "specificity": recall_score(y[rows], told, pos_label=0),
            "excess": (p[rows, 1] - y[rows]).mean(),
        })  # fmt: skip


def test_the_largest_of_many_gaps_is_seldom_told_where_there_is_none() -> None:
    alarms, found = 0, 0
    for seed in range(100):
        given = drawn(seed)
        alarms += (
            judge_subgroups({"site": given[2]}, *given[:2], NAMES, points=[POINT]).gaps[0].low > 0
        )
        given = drawn(seed, harm=2.0)
        gaps = judge_subgroups({"site": given[2]}, *given[:2], NAMES, points=[POINT]).gaps
        assert gaps[0].compared == 4 * 6
        found += any(gap.lowest == "3" and gap.low > 0 for gap in gaps)
    assert alarms <= 9
    assert found >= 95


def test_a_subgroup_of_few_is_told_and_not_compared() -> None:
    p, y, site = drawn(1)
    site[np.flatnonzero(site == "2")[15:]] = "1"
    site[np.flatnonzero(site == "3")[1:]] = ""
    found = judge_subgroups({"site": site}, p, y, NAMES, points=[POINT])
    few = {one.value: one.few for one in found.each}
    assert few == {"0": False, "1": False, "2": True, "3": True, "unknown": False}
    assert {gap.highest for gap in found.gaps} | {gap.lowest for gap in found.gaps} == {"0", "1"}


def test_numbers_are_cut_at_quartiles_or_where_it_is_said() -> None:
    ages = [str(age) for age in range(20, 100)]
    assert pd.Series(binned("age", ages)).value_counts().tolist() == [20] * 4
    assert pd.Series(binned("age", ages, [50])).value_counts().to_dict() == {
        "below 50": 30, "50 and more": 50,
    }  # fmt: skip
    with pytest.raises(InputError, match="not a column of numbers"):
        binned("sex", ["f", "m"], [1.0])


def test_from_the_command_line_to_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_phantoms("colon", patients=40, images_per_patient=2, size=64)
    table = write_phantoms(data, tmp_path / "tiles")
    rows = pd.read_csv(table)
    rows["sex"] = np.where(np.arange(len(rows)) // 2 % 2, "f", "m")
    rows["age"] = 30 + np.arange(len(rows)) // 2
    rows.to_csv(table, index=False)
    out = tmp_path / "fit"
    fast = ("--shots", 2, "--method", "prototype", "--tta", 1)
    point = ("--positive", "tumour", "--threshold", 0.5)
    assert run("fit", table, "--out", out, *fast, *point, "--subgroups", "sex,age:45:60") == 0
    told = pd.read_csv(out / "predictions.csv")
    assert set(told.age) == {"below 45", "45 to below 60", "60 and more"}
    written = pd.read_csv(out / "subgroups.csv")
    row = written[(written.subgroup == "f") & (written.metric == "sensitivity")].iloc[0]
    part = told[told.sex == "f"]
    ill = part.label == "tumour"
    assert row.n == len(part)
    assert row.value == pytest.approx((part.decision == "tumour")[ill].mean())
    assert row.prevalence == pytest.approx(ill.mean())
    metrics = json.loads((out / "metrics.json").read_text())["subgroups"]
    assert len(metrics["each"]) == 5
    page = (out / "report.html").read_text()
    assert "For whom it works less well" in page
    shown = [row for row in Page(page).rows if row and row[0].startswith("sex: f")]
    assert shown[-1][1] == str(len(part))
    capsys.readouterr()
    assert run("evaluate", out, table, "--subgroups", "height") == 2
    assert "no column 'height' for --subgroups" in " ".join(capsys.readouterr().err.split())
