"""MedFMC, read from folders in its layout and, where they are at hand, from its real lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import shared_data
from samples import small_colon

from medept import InputError
from medept.checks.check import quick_check
from medept.data.labelled_images import LabelledImages
from medept.data.sources import SOURCES, official_list, open_dataset
from medept.episodes.draw import draw_episode
from medept.episodes.lists import read_episode

TASKS = {"chest": (19, 95, 190), "colon": (30, 234, 512), "endo": (46, 174, 422)}
"""Lines of the official lists of exp1 with 1, 5 and 10 shots."""


def test_medfmc_is_read_with_its_studies_and_splits(tmp_path: Path) -> None:
    data = open_dataset(f"medfmc-colon:{small_colon(tmp_path / 'colon')}")
    assert data.classes == ("negative", "positive")
    assert data.groups is not None
    assert data.splits is not None
    assert len(data) == 36
    assert len(set(data.groups)) == 12
    assert data.groups[0] == data.names[0][:-9]
    assert (data.splits == "test").sum() == 18


def test_medfmc_is_found_in_the_folder_of_all_its_tasks(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "MedFMC" / "colon")
    inner, outer = f"medfmc-colon:{folder}", f"medfmc-colon:{folder.parent}"
    assert open_dataset(outer).images == open_dataset(inner).images
    assert official_list(outer, 1, "exp2") == official_list(inner, 1, "exp2")


def test_an_official_episode_is_what_its_list_says(tmp_path: Path) -> None:
    source = f"medfmc-colon:{small_colon(tmp_path / 'colon')}"
    data = open_dataset(source)
    episode = read_episode(data, official_list(source, 1, "exp2"))
    assert [data.names[i] for i in episode.support] == list(data.names[:6])
    assert episode.test.tolist() == list(range(18, 36))
    with pytest.raises(InputError, match=r"colon_5-shot_train_exp2\.txt"):
        official_list(source, 5, "exp2")
    with pytest.raises(InputError, match="20%"):
        official_list(source, None, "exp2")


def assert_whole_shots(data: LabelledImages, support: np.ndarray, shots: int) -> None:
    """At least K groups of each label are there with all their training images that have it."""
    groups = np.array(data.names) if data.groups is None else data.groups
    labels = data.targets if data.task == "multilabel" else np.eye(2)[data.targets]
    assert data.splits is not None
    for c in range(len(data.classes)):
        rows = np.flatnonzero((labels[:, c] == 1) & (data.splits == "train"))
        lacking = set(groups[np.setdiff1d(rows, support)].tolist())
        whole = set(groups[np.intersect1d(rows, support)].tolist()) - lacking
        assert len(whole) >= shots
        if data.task == "multiclass":
            assert len(whole) == shots


@pytest.mark.parametrize("task", TASKS)
def test_the_real_lists_have_the_published_counts(task: str, tmp_path: Path) -> None:
    lists = shared_data("data", "medfmc-annotations", task)
    shutil.copytree(lists, tmp_path / task)
    source = SOURCES[f"medfmc-{task}"]
    names = [
        line.split(".png")[0] + ".png"
        for file in ("trainval.txt", "test_WithLabel.txt")
        for line in (lists / file).read_text().splitlines()
    ]
    (tmp_path / task / "images").mkdir()
    for name in names:
        (tmp_path / task / "images" / name).touch()
    data = source.read(tmp_path / task)
    assert len(data) == len(names)
    for shots, count in zip((1, 5, 10), TASKS[task], strict=True):
        for n in range(1, 6):
            file = source.official_list(tmp_path / task, shots, f"exp{n}")
            episode = read_episode(data, file)
            if n == 1:
                assert len(episode.support) == count
            assert_whole_shots(data, episode.support, shots)
            assert data.splits is not None
            assert (data.splits[episode.test] == "test").all()
    share = read_episode(data, source.official_list(tmp_path / task, 0.2, "official"))
    assert len(share.support) == len((lists / "train_20.txt").read_text().splitlines())
    for shots in (1, 5, 10):  # no study stands in both the training and the test set
        drawn = draw_episode(data, shots)
        assert_whole_shots(data, drawn.support, shots)


def test_what_is_missing_is_named_with_its_origin(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon")
    gone = sorted((folder / "images").iterdir())[:7]
    for file in gone:
        file.unlink()
    with pytest.raises(InputError) as error:
        open_dataset(f"medfmc-colon:{folder}")
    assert "7 of 36 files are missing" in str(error.value)
    assert gone[0].name in str(error.value)
    assert "2 more" in str(error.value)
    assert "https://" in str(error.value)
    (folder / "trainval.txt").unlink()
    with pytest.raises(InputError, match=r"trainval\.txt"):
        open_dataset(f"medfmc-colon:{folder}")
    with pytest.raises(InputError, match="no such folder"):
        open_dataset(f"medfmc-colon:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../etc/passwd.png 1", "not a plain file name"),
        ("a.png 2", "line 1"),
        ("a.png", "line 1"),
        ("a.png 1 1", "missing"),  # a name may hold spaces: that of an image that is not there
        ("", "empty list"),
    ],
)
def test_a_damaged_list_is_an_error_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon")
    (folder / "trainval.txt").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        open_dataset(f"medfmc-colon:{folder}")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon")
    image = next((folder / "images").iterdir())
    (tmp_path / "private.png").write_bytes(image.read_bytes())
    image.unlink()
    image.symlink_to(tmp_path / "private.png")
    with pytest.raises(InputError, match="leads out"):
        open_dataset(f"medfmc-colon:{folder}")


def test_columns_cannot_be_named_for_a_data_set_that_knows_its_own(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon")
    with pytest.raises(InputError, match="label_column"):
        open_dataset(f"medfmc-colon:{folder}", label_column="label")
    with pytest.raises(InputError, match="negative, positive"):
        open_dataset(f"medfmc-colon:{folder}", classes=["a", "b"])


def test_medfmc_passes_the_quick_check(tmp_path: Path) -> None:
    data = open_dataset(f"medfmc-colon:{small_colon(tmp_path / 'colon')}")
    episode = draw_episode(data, 1)
    assert quick_check(data.subset(episode.support), data.subset(episode.test)) == []
