"""Episodes as files: written and read again, and refused if they do not fit the data."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from random import Random

import pytest
from episode_data import mixed, table
from hypothesis import given
from hypothesis import strategies as st

from medept import InputError
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode
from medept.episodes.lists import read_episode, write_episode


@given(mixed(), st.integers(1, 3), st.integers(0, 3), st.randoms(use_true_random=False))
def test_an_episode_that_is_written_is_read_again_whatever_the_order_of_rows(
    data: LabelledImages, shots: int, seed: int, random: Random
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        episode = draw_episode(data, shots, seed)
        if not len(episode.test):
            return
        order = list(range(len(data)))
        random.shuffle(order)
        shuffled = data.subset(order)
        with tempfile.TemporaryDirectory() as folder:
            file = write_episode(data, episode, Path(folder), "1-shot", "exp1")
            read = read_episode(shuffled, file)
    for side in ("support", "test"):
        names = {data.names[i] for i in getattr(episode, side)}
        assert {shuffled.names[i] for i in getattr(read, side)} == names


def test_a_list_keeps_its_repeated_images_and_the_rest_is_the_test(tmp_path: Path) -> None:
    data = table([0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 2, 3])
    (tmp_path / "mine.txt").write_text("image_2.png 1\nimage_0.png 0\nimage_2.png 1\n")
    episode = read_episode(data, tmp_path / "mine.txt")
    assert episode.support.tolist() == [2, 0, 2]
    assert episode.test.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("image_9.png 0", None, "line 1: no image 'image_9.png'"),
        ("image_0.png 1", None, "another label here"),
        ("image_0.png 0", "image_1.png 0", "both train and test"),
        ("image_0.png 0", "image_0.png 0", "both train and test"),
        ("image_0.png", None, "line 1"),
    ],
)
def test_a_list_that_does_not_fit_the_data_is_refused(
    train: str, test: str | None, message: str, tmp_path: Path
) -> None:
    data = table([0, 0, 1, 1], [0, 0, 1, 1])
    (tmp_path / "1-shot_train_exp1.txt").write_text(train)
    if test:
        (tmp_path / "1-shot_test_exp1.txt").write_text(test)
    with pytest.raises(InputError, match=message):
        read_episode(data, tmp_path / "1-shot_train_exp1.txt")
