"""Few-shot episodes: no group on two sides, K shots a class, and nothing but the seed matters."""

from __future__ import annotations

import re
import warnings
from random import Random

import numpy as np
import pytest
from episode_data import mixed, table, tables
from hypothesis import given
from hypothesis import strategies as st

from medept import InputError
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode


@given(tables(), st.integers(1, 3), st.integers(0, 5))
def test_k_groups_of_each_class_and_no_group_on_two_sides(
    data: LabelledImages, shots: int, seed: int
) -> None:
    episode = draw_episode(data, shots, seed)
    assert data.groups is not None
    assert not set(data.groups[episode.support]) & set(data.groups[episode.test])
    assert len(episode.support) + len(episode.test) == len(data)
    for c in range(len(data.classes)):
        rows = episode.support[data.targets[episode.support] == c]
        assert len(set(data.groups[rows])) == shots


@given(tables(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    data: LabelledImages, shots: int, random: object
) -> None:
    order = list(range(len(data)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = data.subset(order)
    first, second = draw_episode(data, shots, 3), draw_episode(shuffled, shots, 3)
    assert {data.names[i] for i in first.support} == {shuffled.names[i] for i in second.support}


def test_a_seed_gives_this_very_episode_everywhere() -> None:
    episode = draw_episode(table([0, 1] * 10, list(range(20))), 2, seed=7)
    assert episode.support.tolist() == GOLDEN
    assert draw_episode(table([0, 1] * 10, list(range(20))), 2, seed=8).support.tolist() != GOLDEN


GOLDEN = [3, 4, 6, 11]


@given(mixed(), st.integers(1, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_whatever_the_groups_no_leak_and_no_silent_shortage(
    data: LabelledImages, shots: int, seed: int, random: Random
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        episode = draw_episode(data, shots, seed)
    said = [str(warning.message) for warning in caught]
    (fewer, *_), (untested, *_) = (
        [re.split("[:,] ", text) for text in said if part in text] or [[]]
        for part in ("fewer shots", "left to test on")
    )
    assert data.groups is not None
    assert not set(data.groups[episode.support]) & set(data.groups[episode.test])
    for c, name in enumerate(data.classes):
        has = data.targets[:, c] == 1 if data.task == "multilabel" else data.targets == c
        learnt = set(data.groups[episode.support][has[episode.support]])
        assert learnt
        assert len(learnt) >= shots or any(part.startswith(f"{name} (") for part in fewer)
        assert (name in untested) == (not has[episode.test].any())
    order = list(range(len(data)))
    random.shuffle(order)
    shuffled = data.subset(order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = draw_episode(shuffled, shots, seed)
    assert {data.names[i] for i in episode.support} == {shuffled.names[i] for i in again.support}


def test_patients_with_every_class_leave_one_to_test_on() -> None:
    data = table([0, 1] * 3, [0, 0, 1, 1, 2, 2])
    with pytest.warns(UserWarning, match="a .2 of 3., b .2 of 3."):
        episode = draw_episode(data, 5)
    assert (len(episode.support), len(episode.test)) == (4, 2)


@pytest.mark.parametrize("shots", [0, -1])
def test_fewer_than_one_shot_is_refused(shots: int) -> None:
    with pytest.raises(InputError, match=f"shots={shots}: give at least 1"):
        draw_episode(table([0, 1], None), shots)


def test_without_groups_an_image_is_a_shot() -> None:
    episode = draw_episode(table([0, 1] * 10, None), 3)
    assert len(episode.support) == 6


def test_multi_label_draws_k_new_groups_for_each_label() -> None:
    targets = np.zeros((40, 3), dtype=np.uint8)
    targets[:20, 0] = targets[10:30, 1] = targets[25:, 2] = 1
    names = tuple(f"{i}" for i in range(40))
    data = LabelledImages(names, names, targets, ("a", "b", "c"))
    episode = draw_episode(data, 4)
    assert len(episode.support) == 12
    assert (targets[episode.support].sum(axis=0) >= 4).all()


def test_a_class_short_of_shots_warns_and_leaves_one_for_the_test() -> None:
    data = table([0] * 10 + [1] * 3, list(range(13)))
    with pytest.warns(UserWarning, match="1 class has fewer shots than the 5 .*b \\(2 of 3\\)"):
        episode = draw_episode(data, 5)
    assert (data.targets[episode.test] == 1).sum() == 1


def test_a_class_with_a_single_group_is_learnt_from_but_not_tested() -> None:
    data = table([0] * 10 + [1], list(range(11)))
    with (
        pytest.warns(UserWarning, match="fewer shots than the 2 .*b \\(1 of 1\\)"),
        pytest.warns(UserWarning, match="1 class has no image left to test on.*: b"),
    ):
        episode = draw_episode(data, 2)
    assert 10 in episode.support
    assert 1 not in data.targets[episode.test]


def test_many_classes_short_of_shots_are_one_warning() -> None:
    with pytest.warns(UserWarning, match="fewer shots") as met:
        draw_episode(table(list(range(8)) * 2, list(range(16))), 5)
    (said,) = [str(one.message) for one in met if "fewer" in str(one.message)]
    assert said.startswith("8 classes have fewer shots than the 5 asked for")
    assert said.endswith("e (1 of 2), ...")


def test_a_class_without_train_rows_is_refused() -> None:
    with pytest.raises(InputError, match="class 'b' has no image to learn from"):
        draw_episode(table([0, 0, 1], [1, 2, 3], ["train", "test", "test"]), 1)


def test_split_column_gives_both_sides() -> None:
    splits = ["train"] * 8 + ["val"] * 4 + ["test"] * 8
    data = table([0, 1] * 10, list(range(20)), splits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few, everything = draw_episode(data, 4), draw_episode(data, None)
    assert few.test.tolist() == everything.test.tolist() == list(range(12, 20))
    assert few.support.tolist() == everything.support.tolist() == list(range(8))


def test_a_group_in_train_and_test_is_refused() -> None:
    data = table([0, 1, 0, 1], [1, 2, 1, 4], ["train", "train", "test", "test"])
    with pytest.raises(InputError, match="'g1'"):
        draw_episode(data, None)


def test_a_split_without_test_rows_is_refused() -> None:
    with pytest.raises(InputError, match="no test rows"):
        draw_episode(table([0, 1], [1, 2], ["train", "train"]), None)


def test_all_without_splits_is_everything() -> None:
    episode = draw_episode(table([0, 1] * 3, None), None)
    assert (len(episode.support), len(episode.test)) == (6, 0)


@given(tables(), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 3))
def test_a_share_is_taken_of_each_classs_groups(
    data: LabelledImages, share: float, seed: int
) -> None:
    episode = draw_episode(data, share, seed)
    assert data.groups is not None
    assert not set(data.groups[episode.support]) & set(data.groups[episode.test])
    for c in range(len(data.classes)):
        there = len(set(data.groups[data.targets == c]))
        rows = episode.support[data.targets[episode.support] == c]
        taken = len(set(data.groups[rows]))
        assert taken in (max(1, round(share * there)), there - 1)


def test_a_share_of_multi_label_data_is_taken_of_all_groups() -> None:
    data = LabelledImages(
        images=tuple("abcdefghij"),
        names=tuple("abcdefghij"),
        targets=np.array([[i % 2, i % 3 == 0] for i in range(10)], dtype=np.uint8),
        classes=("odd", "third"),
    )
    episode = draw_episode(data, 0.2)
    assert len(episode.support) == 2
    assert len(episode.test) == 8
