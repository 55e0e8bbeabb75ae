"""Cases from tables and folders: one label, one group, one side; draws by case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medept import InputError
from medept.data.case_labels import join_cases
from medept.data.cases import Case, images_of, rows_of_cases, sizes_of
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.episodes.draw import draw_episode


def written(folder: Path, rows: list[str], header: str = "image,exam,label") -> Path:
    for row in rows:
        file = folder / row.split(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "t.csv"


ROWS = ["1.png,x,a", "2.png,y,b", "3.png,x,a", "4.png,y,a"]


@pytest.mark.parametrize(
    ("rule", "expected"), [("any", ["a", "b"]), ("max", ["a", "b"]), ("majority", None)]
)
def test_a_rule_says_which_label_a_case_has(tmp_path: Path, rule: str, expected) -> None:
    table = written(tmp_path, ROWS)
    if expected is None:
        with pytest.raises(InputError, match="'y': as many of its images are .* as"):
            read_dataset(table, case_column="exam", case_label=rule)
        table = written(tmp_path, [*ROWS, "5.png,y,a", "6.png,z,b"])
        data = read_dataset(table, case_column="exam", case_label=rule)
        assert data.labels.tolist() == ["a", "a", "b"]
        return
    data = read_dataset(table, case_column="exam", case_label=rule)
    assert (data.names, data.labels.tolist()) == (("x", "y"), expected)
    assert sizes_of(data.images).tolist() == [2, 2]
    assert [Path(str(x)).name for x in images_of(data.images)] == [
        "1.png", "3.png", "2.png", "4.png",
    ]  # fmt: skip


def test_rules_for_several_labels() -> None:
    names = ("1", "2", "3")
    targets = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.uint8)
    data = LabelledImages(names, names, targets, ("mass", "fluid"))
    assert join_cases(data, ["c"] * 3, "any").targets.tolist() == [[1, 1]]
    assert join_cases(data, ["c"] * 3, "majority").targets.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {}, r"case 'y': its images have different labels \(2.png: b, 4.png: a\)"),
        (["1.png,,a", "2.png,y,b"], {}, "row 2: column 'exam' is empty"),
        (ROWS, {"case_column": "visit"}, "no column 'visit'"),
        (ROWS, {"case": "folder"}, "give one of them"),
        ([*ROWS, "5.png,z,c"], {"case_label": "any"}, "use max .* or majority"),
    ],
)
def test_what_makes_no_case_is_told_with_its_rows(tmp_path, rows, options, message) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset(written(tmp_path, rows), **({"case_column": "exam"} | options))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("patient", "pqrq", r"'x' is in several groups \(1.png: p, 3.png: r\)"),
        ("split", ("train", "test", "test", "test"), "'x' is in several sides of the split"),
    ],
)
def test_a_case_is_in_one_group_and_on_one_side(tmp_path, column, values, message) -> None:
    agreeing = [*ROWS[:3], "4.png,y,b"]
    rows = [f"{row},{value}" for row, value in zip(agreeing, values, strict=True)]
    table = written(tmp_path, rows, f"image,exam,label,{column}")
    with pytest.raises(InputError, match=message):
        read_dataset(table, case_column="exam")


def test_folders_of_a_class_are_cases_and_other_images_are_their_own(tmp_path: Path) -> None:
    for name in ("a/p1/1.png", "a/p1/2.png", "a/3.png", "b/p2/deep/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    data = read_dataset(tmp_path, case="folder")
    assert data.names == ("a/3.png", "a/p1", "b/p2/deep")
    assert data.labels.tolist() == ["a", "a", "b"]


def cased(groups: bool) -> LabelledImages:
    """24 cases of 12 patients: two each, of which the second has two images."""
    rows = [(case, i) for case in range(24) for i in range(1 + case % 2)]
    names = tuple(f"{case}-{i}.png" for case, i in rows)
    cases = [f"case {case}" for case, _ in rows]
    targets = np.array([case // 2 % 3 for case, _ in rows])
    patients = np.array([f"patient {case // 2}" for case, _ in rows])
    data = LabelledImages(names, names, targets, ("a", "b", "c"), patients if groups else None)
    return join_cases(data, cases)


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("groups", [False, True])
def test_shots_are_cases_of_different_groups(shots: int, groups: bool) -> None:
    data = cased(groups)
    episode = draw_episode(data, shots, seed=1)
    assert np.bincount(data.targets[episode.support]).tolist() == [shots] * 3
    if groups:
        assert len(set(data.groups[episode.support])) == 3 * shots
        assert not set(data.groups[episode.support]) & set(data.groups[episode.test])


def test_where_groups_are_few_a_group_gives_several_cases() -> None:
    data = cased(True)
    episode = draw_episode(data, 6, seed=1)
    assert np.bincount(data.targets[episode.support]).tolist() == [6] * 3
    with pytest.warns(UserWarning, match=r"a \(6 of 8\)"):
        draw_episode(data, 9, seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_one_image_a_case_is_drawn_as_without_cases(seed: int) -> None:
    names = tuple(f"{i}.png" for i in range(30))
    data = LabelledImages(names, names, np.arange(30) % 3, ("a", "b", "c"))
    joined = join_cases(data, [f"exam {100 - i}" for i in range(30)])
    expected, found = draw_episode(data, 4, seed=seed), draw_episode(joined, 4, seed=seed)
    np.testing.assert_array_equal(found.support, expected.support)
    np.testing.assert_array_equal(found.test, expected.test)


def test_cases_as_images_have_the_label_and_group_of_their_case() -> None:
    single = cased(False).by_image()
    assert len(single) == 36
    assert (single.names[1], single.groups[1], single.labels[1]) == ("1-0.png", "case 1", "a")


def test_a_case_has_images() -> None:
    with pytest.raises(InputError, match="without images"):
        Case((), ())
    with pytest.raises(InputError, match="image 1"):
        rows_of_cases(["a", float("nan")])
