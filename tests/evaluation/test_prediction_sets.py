"""Prediction sets of an adapter: coverage by class and group, and MAPIE's thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_predictions import drawn, multilabel

from medept import InputError
from medept.evaluation.conformal import conformal_threshold, groups_needed
from medept.evaluation.prediction_sets import fit_prediction_sets, judge_sets, set_texts

NAMES = ["a", "b", "c"]


def test_groups_count_as_one() -> None:
    """Scores that a group shares: the mean coverage of new groups is the stated one."""
    held = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 9, size=60)  # large groups have low scores
        groups = np.repeat(np.arange(60), sizes)
        shared = random.normal(size=60) - 0.2 * sizes
        scores = 1 / (1 + np.exp(-(shared[groups] + 0.3 * random.normal(size=len(groups)))))
        known = groups < 30
        at = conformal_threshold(scores[known], groups[known], coverage=0.8)
        hit = scores[~known] >= at
        new = groups[~known] - 30
        held.append((np.bincount(new, hit) / np.bincount(new)).mean())
    assert 0.8 - 0.012 <= np.mean(held) <= 0.8 + 1 / 31 + 0.012


def test_without_groups_the_threshold_is_the_quantile_of_split_conformal_prediction() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        n = int(random.integers(9, 80))
        scores = random.random(n).round(1 if seed % 2 else 6)  # with ties, too
        allowed = int(np.floor(0.1 * (n + 1) + 1e-9))
        expected = np.sort(scores)[allowed - 1]
        assert conformal_threshold(scores, np.arange(n), coverage=0.9) == expected
    assert conformal_threshold(np.ones(8), np.arange(8), coverage=0.9) == 0
    assert groups_needed(0.95) == 19


def test_classes_of_few_groups_share_a_threshold_that_holds_on_average() -> None:
    held, sizes = [], []
    for seed in range(150):
        p, y = drawn(seed, 900)
        few = np.concatenate([np.flatnonzero(y == c)[:5] for c in range(3)])
        sets = fit_prediction_sets(p[few], y[few], few, NAMES, coverage=0.9)
        assert sets.pooled == NAMES
        assert len(set(sets.present)) == 1
        rest = np.setdiff1d(np.arange(900), few)
        found = judge_sets(sets, sets.contain(p[rest]), y[rest], NAMES)
        held.append(np.mean([m.value for m in found.by_class.values()]))
        sizes.append(found.mean_size)
    assert 0.89 <= np.mean(held) <= 0.9 + 1 / 16 + 0.01
    assert np.mean(sizes) < 2.9  # alone, five cases of a class would put it into every set


def test_a_rare_class_is_in_every_set_and_is_told() -> None:
    p, y = drawn(0, 300)
    rows = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:4]]
    sets = fit_prediction_sets(p[rows], y[rows], rows, NAMES)
    assert sets.pooled == []
    assert sets.present[2] == 0
    assert min(sets.present[:2]) > 0
    assert sets.contain(p)[:, 2].all()
    assert "every set has c, for which 9 are needed" in sets.note(NAMES)


def test_sets_of_labels_hold_absence_and_presence() -> None:
    p, y = multilabel(0, 4000)
    half = np.arange(4000) < 2000
    sets = fit_prediction_sets(p[half], y[half], np.flatnonzero(half), NAMES)
    found = judge_sets(sets, sets.contain(p[~half]), y[~half], NAMES)
    for metric in [*found.by_class.values(), *found.absent.values()]:
        assert metric.value == pytest.approx(0.92, abs=0.04)  # scores are rounded, and so larger
        assert metric.low <= metric.value <= metric.high
    assert found.observed.value == pytest.approx(0.92, abs=0.03)


def test_judged_coverage_is_counted() -> None:
    p, y = drawn(1, 400)
    sets = fit_prediction_sets(p[:200], y[:200], np.arange(200), NAMES)
    contained = sets.contain(p[200:])
    found = judge_sets(sets, contained, y[200:], NAMES, np.arange(200) // 2)
    hits = [contained[i, c] for i, c in enumerate(y[200:])]
    assert found.observed.value == pytest.approx(np.mean(hits))
    of_b = [hit for hit, c in zip(hits, y[200:], strict=True) if c == 1]
    assert found.by_class["b"].value == pytest.approx(np.mean(of_b))
    assert found.mean_size == contained.sum() / 200
    texts = set_texts(contained, NAMES)
    assert all((NAMES[c] in text.split("|")) == hit for c, text, hit in
               zip(y[200:], texts, hits, strict=True))  # fmt: skip


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0])
def test_a_coverage_is_a_proportion(coverage: float) -> None:
    p, y = drawn(1, 40)
    with pytest.raises(InputError, match="between 0 and 1"):
        fit_prediction_sets(p, y, np.arange(40), NAMES, coverage=coverage)
