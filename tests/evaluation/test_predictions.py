"""Predictions from probabilities, and whether they are correct."""

from __future__ import annotations

import numpy as np

from medept.evaluation.predictions import confidence, decide, indicators, is_correct


def test_decisions_agree_with_each_other() -> None:
    p = np.array([[0.5, 0.9], [0.51, 0.2]])
    assert decide(p, "multilabel").tolist() == [[0, 1], [1, 0]]
    assert is_correct(p, np.array([[0, 1], [0, 0]])).tolist() == [True, False]
    assert confidence(p, "multilabel").tolist() == [0.5, 0.51]
    assert is_correct(p, np.array([1, 1])).tolist() == [True, False]
    assert indicators(np.array([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
