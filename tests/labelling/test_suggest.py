"""Suggestions: valid for every strategy, and what the papers say of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

from medept import InputError
from medept.labelling.suggest import NEED_LABELS, STRATEGIES, UNLABELLED, UNSURE, suggest

pytest.importorskip("skactiveml", reason="scikit-activeml is not installed")


def clusters(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around far corners, and the cluster of each."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    return 10 * np.eye(len(sizes))[of] + rng.normal(size=(len(of), len(sizes))), of


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_suggestions_are_different_rows_without_an_answer(strategy: str) -> None:
    points, of = clusters([30, 30, 30])
    labels = np.full(90, UNLABELLED)
    labels[[0, 1, 35, 40]] = of[[0, 1, 35, 40]]
    labels[[2, 70]] = UNSURE
    found = suggest(points, labels, 8, strategy=strategy, seed=3)
    assert len(set(found.tolist())) == 8
    assert (labels[found] == UNLABELLED).all()
    assert suggest(points, labels, 8, strategy=strategy, seed=3).tolist() == found.tolist()
    assert len(suggest(points, labels, 1000, strategy=strategy)) == 84


@pytest.mark.parametrize("strategy", ["typical", "centres", "herding"])
def test_as_many_as_clusters_are_one_of_each_and_typical(strategy: str) -> None:
    points, of = clusters([40, 20, 20, 10])
    found = suggest(points, np.full(90, UNLABELLED), 4, strategy=strategy)
    assert sorted(of[found]) == [0, 1, 2, 3]
    for row in found if strategy != "herding" else ():  # nearer to its cluster's mean than most
        own = points[of == of[row]]
        distances = np.linalg.norm(own - own.mean(axis=0), axis=1)
        mine = np.linalg.norm(points[row] - own.mean(axis=0))
        assert mine < np.median(distances)


def test_what_is_labelled_is_covered() -> None:
    points, of = clusters([30, 30])
    labels = np.full(60, UNLABELLED)
    labels[:3] = 0
    assert of[suggest(points, labels, 1, strategy="centres")] == [1]


def test_a_margin_is_that_of_two_nearest_means() -> None:
    """On a line between two classes the images in the middle are asked for."""
    points = np.linspace(-1, 1, 81)[:, None]
    labels = np.full(81, UNLABELLED)
    labels[[0, 1, 79, 80]] = [0, 0, 1, 1]
    found = suggest(points, labels, 4, strategy="margin")
    middle = np.argsort(np.abs(points[:, 0]), kind="stable")[:40]
    assert set(found) <= set(middle)
    assert pairwise_distances(points[found])[~np.eye(4, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("strategy", NEED_LABELS)
def test_what_learns_needs_two_classes(strategy: str) -> None:
    with pytest.raises(InputError, match="two classes"):
        suggest(np.eye(5), np.full(5, UNLABELLED), 2, strategy=strategy)


def test_an_unknown_strategy_names_those_that_are() -> None:
    with pytest.raises(InputError, match="typical"):
        suggest(np.eye(5), np.full(5, UNLABELLED), 2, strategy="best")
