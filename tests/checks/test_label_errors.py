"""Labels that were swapped look wrong, and no others do."""

from __future__ import annotations

import numpy as np

from medept.checks.label_errors import confident_disagreements, find_label_errors


def test_confident_disagreements_are_off_the_diagonal() -> None:
    """By hand: thresholds are 0.6 and 0.7; row 1 is above that of the other class."""
    probabilities = np.array([[0.9, 0.1], [0.05, 0.95], [0.85, 0.15], [0.2, 0.8], [0.4, 0.6]])
    targets = np.array([0, 0, 0, 1, 1])
    rows, suggested = confident_disagreements(probabilities, targets)
    assert (rows.tolist(), suggested.tolist()) == ([1], [1])


def test_labels_that_were_swapped_are_the_suspects() -> None:
    random = np.random.default_rng(0)
    truth = np.arange(90) % 3
    features = 4 * np.eye(3)[truth] @ random.normal(size=(3, 10)) + random.normal(size=(90, 10))
    given = truth.copy()
    swapped = [5, 40, 71]
    given[swapped] = (truth[swapped] + 1) % 3
    found = find_label_errors(features, given, None, lambda *_: None)
    assert found is not None
    assert set(swapped) <= set(found.rows.tolist())
    assert dict(zip(found.rows, found.suggested, strict=True))[40] == truth[40]
    assert len(found.rows) <= 5
    assert (np.diff(found.given) >= 0).all(), "the most doubtful first"
    nothing = find_label_errors(random.normal(size=(90, 10)), given, None, lambda *_: None)
    assert nothing is not None
    assert not len(nothing.rows), "a probe that cannot tell the classes doubts no label"
