"""Operating points: thresholds against brute force, guarantees by simulation, 2 x 2 by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from medept import InputError
from medept.evaluation.decisions import judge_point
from medept.evaluation.operating_points import (
    OperatingAim,
    OperatingPoint,
    check_aim,
    choose_points,
)

CLASSES = ["well", "ill", "odd"]


def drawn(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n).round(2)
    return p, np.array([random.choice(3, p=row / row.sum()) for row in p])


@pytest.mark.parametrize("seed", range(4))
def test_a_point_is_the_best_of_all_thresholds(seed: int) -> None:
    p, y = drawn(seed)
    scores, truth = p[:, 1] + p[:, 2], y > 0
    every = np.linspace(-0.005, 1.005, 102)  # between all scores, which have two digits
    sensitivity = np.array([recall_score(truth, scores >= t) for t in every])
    specificity = np.array([recall_score(~truth, scores < t) for t in every])

    def point(**aim) -> OperatingPoint:
        return choose_points(OperatingAim(("ill", "odd"), **aim), p, y, np.arange(120), CLASSES)[0]

    found = point(sensitivity=0.9)
    assert found.sensitivity >= 0.9
    assert found.specificity == pytest.approx(specificity[sensitivity >= 0.9].max())
    found = point(specificity=0.9)
    assert found.specificity >= 0.9
    assert found.sensitivity == pytest.approx(sensitivity[specificity >= 0.9].max())
    found = point(cost=(10.0, 1.0))
    costs = 10 * truth.mean() * (1 - sensitivity) + (1 - truth.mean()) * (1 - specificity)
    cost = 10 * truth.mean() * (1 - found.sensitivity)
    cost += (1 - truth.mean()) * (1 - found.specificity)
    assert cost == pytest.approx(costs.min())
    assert point(threshold=0.3).threshold == 0.3
    for rate, threshold in point(threshold=0.3).others.items():
        assert recall_score(truth, scores >= threshold) >= float(rate)


def test_a_guaranteed_sensitivity_holds_on_average_over_support_sets() -> None:
    """40 groups of two positives that share their deviation; on new cases 0.9 are found."""
    random, reached = np.random.default_rng(0), []
    aim = OperatingAim(("ill",), sensitivity=0.9, guarantee=True)
    ids = np.arange(160) // 2
    y = (np.arange(160) < 80).astype(int)
    for _ in range(300):
        shared = np.sqrt(0.5) * random.normal(size=80)[ids]
        logit = 1.5 * y + shared + np.sqrt(0.5) * random.normal(size=160)
        score = norm.cdf(logit)
        point = choose_points(aim, np.stack([1 - score, score], 1), y, ids, ["well", "ill"])[0]
        assert point.promised == pytest.approx(0.9)
        reached.append(norm.sf(norm.ppf(point.threshold) - 1.5))
    assert 0.895 <= np.mean(reached) <= 0.925  # at least, and not much more than the promise


def test_ten_positives_cannot_promise_much() -> None:
    p = np.linspace(0.01, 0.99, 20)
    y = (np.arange(20) >= 10).astype(int)
    aim = OperatingAim(("ill",), sensitivity=0.95, guarantee=True)
    point = choose_points(aim, np.stack([1 - p, p], 1), y, np.arange(20), ["well", "ill"])[0]
    assert point.promised == pytest.approx(10 / 11)
    assert point.needed == 19
    assert "0.91 can, and 19 groups would do" in point.note()


@pytest.mark.parametrize("grouped", [False, True])
def test_decisions_are_those_of_scikit_learn(grouped: bool) -> None:
    p, y = drawn(5, 300)
    point = OperatingPoint(positive=["ill", "odd"], threshold=0.6, aim="threshold 0.6",
                           others={"0.80": 0.7})  # fmt: skip
    groups = np.arange(300) // 3 if grouped else None
    found = judge_point(point, p, y, CLASSES, groups, prevalence=0.05)
    assert [one.threshold for one in found] == [0.6, 0.7]
    one, truth, told = found[0], y > 0, p[:, 1] + p[:, 2] >= 0.6
    table = [[one.true_negative, one.false_positive], [one.false_negative, one.true_positive]]
    assert table == confusion_matrix(truth, told).tolist()
    rates = {name: rate.value for name, rate in one.rates.items()}
    sensitivity, specificity = recall_score(truth, told), recall_score(~truth, ~told)
    assert rates == pytest.approx({
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": precision_score(truth, told),
        "npv": precision_score(~truth, ~told),
        "lr_positive": sensitivity / (1 - specificity),
        "lr_negative": (1 - sensitivity) / specificity,
    })  # fmt: skip
    bayes = sensitivity * 0.05 / (sensitivity * 0.05 + (1 - specificity) * 0.95)
    assert one.at_prevalence["ppv"].value == pytest.approx(bayes)
    bayes = specificity * 0.95 / (specificity * 0.95 + (1 - sensitivity) * 0.05)
    assert one.at_prevalence["npv"].value == pytest.approx(bayes)
    for metric in (*one.rates.values(), *one.at_prevalence.values()):
        assert metric.low < metric.value < metric.high


def test_intervals_of_likelihood_ratios_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    point = OperatingPoint(positive=["ill"], threshold=0.5, aim="threshold 0.5")
    y = (np.arange(230) < 30).astype(int)
    held = np.zeros(2)
    for _ in range(200):
        told = random.random(230) < np.where(y == 1, 0.8, 0.1)
        rates = judge_point(point, np.stack([1 - told, told], 1), y, ["well", "ill"])[0].rates
        for i, (name, truth) in enumerate({"lr_positive": 8, "lr_negative": 2 / 9}.items()):
            held[i] += rates[name].low <= truth <= rates[name].high
    assert (held / 200 >= 0.92).all()


def test_a_rate_of_nothing_has_no_value() -> None:
    point = OperatingPoint(positive=["ill"], threshold=0.5, aim="threshold 0.5")
    p, y = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), np.array([0, 0, 1])
    rates = judge_point(point, p, y, ["well", "ill"])[0].rates
    assert rates["lr_positive"].value is None  # no false alarm
    assert rates["lr_positive"].low > 0
    assert rates["lr_negative"].value == 0
    only = judge_point(point, p[:2], y[:2], ["well", "ill"])[0].rates
    assert only["sensitivity"].value is None
    assert "lr_positive" not in only


def test_each_label_has_its_own_point() -> None:
    p = np.random.default_rng(0).random((60, 2))
    y = (np.random.default_rng(1).random((60, 2)) < p).astype(int)
    aim = OperatingAim(sensitivity=0.9)
    points = choose_points(aim, p, y, np.arange(60), ["a", "b"])
    assert [point.positive for point in points] == [["a"], ["b"]]
    for point, q, t in zip(points, p.T, y.T, strict=True):
        assert recall_score(t, q >= point.threshold) >= 0.9


P, Y = np.array([[0.9, 0.1]] * 4), np.array([0, 0, 1, 1])
BAD = {
    "positive=sick: not a class; the classes are well, ill": {
        "positive": ("sick",), "sensitivity": 0.9},
    "give positive=": {"sensitivity": 0.9},
    "these are all classes": {"positive": ("well", "ill"), "sensitivity": 0.9},
    "has one aim": {"positive": ("ill",), "sensitivity": 0.9, "threshold": 0.5},
    "an operating point has one aim": {"positive": ("ill",)},
    "sensitivity=1.5: give a number": {"positive": ("ill",), "sensitivity": 1.5},
    "two numbers above 0": {"positive": ("ill",), "cost": (0.0, 1.0)},
    "guarantee= is for": {"positive": ("ill",), "threshold": 0.5, "guarantee": True},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_aims_are_refused(message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        choose_points(OperatingAim(**BAD[message]), P, Y, np.arange(4), ["well", "ill"])


def test_without_held_out_cases_only_a_threshold_can_be_given() -> None:
    with pytest.raises(InputError, match="two shots"):
        choose_points(OperatingAim(("ill",), sensitivity=0.9), None, Y, Y, ["well", "ill"])
    given = OperatingAim(("ill",), threshold=0.2)
    assert choose_points(given, None, Y, Y, ["well", "ill"])[0].threshold == 0.2
    with pytest.raises(InputError, match="cases with it and cases without"):
        choose_points(OperatingAim(("ill",), sensitivity=0.9), P, 0 * Y, Y, ["well", "ill"])


def test_the_class_of_a_single_case_is_named() -> None:
    aim = OperatingAim(("ill",), sensitivity=0.9)
    targets = np.array([0, 0, 1, 1, 2])
    with pytest.raises(InputError, match=r"two shots, .* out \(rare has one\); give more"):
        check_aim(aim, targets, ["ill", "well", "rare"], held_out=False)
