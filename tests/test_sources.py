"""Named data sets, read from folders that have their real layout and, where at hand, real lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import shared_data
from PIL import Image
from typer.testing import CliRunner

from medept import InputError
from medept.cli import app
from medept.data.check import quick_check
from medept.data.episodes import draw_episode, read_episode
from medept.data.sources import SOURCES, official_list, open_dataset

TASKS = {"chest": (19, 95, 190), "colon": (30, 234, 512), "endo": (46, 174, 422)}
"""Lines of the official lists of exp1 with 1, 5 and 10 shots."""


def draw_images(folder: Path, names: list[str], size: int = 8) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def small_colon(folder: Path, *, studies: int = 6) -> Path:
    """A ColonPath of our own: studies of three tiles, names with spaces, lists and images."""
    folder.mkdir(parents=True)
    rows = [
        (f"2019-0{study} 01_00-lv1p00{i:02}.png"[:-9] + f"p00{i:02}.png", study % 2)
        for study in range(studies)
        for i in range(3)
    ]
    test = [(name.replace("2019", "2020"), label) for name, label in rows]
    for file, part in {"trainval.txt": rows, "test_WithLabel.txt": test}.items():
        (folder / file).write_text("".join(f"{name} {label}\n" for name, label in part))
    (folder / "test_WithoutLabel.txt").write_text("".join(f"{name}\n" for name, _ in test))
    (folder / "colon_1-shot_train_exp2.txt").write_text(
        "".join(f"{name} {label}\n" for name, label in rows[:6])
    )
    draw_images(folder / "images", [name for name, _ in rows + test])
    return folder


def test_medfmc_is_read_with_its_studies_and_splits(tmp_path: Path) -> None:
    data = open_dataset(f"medfmc-colon:{small_colon(tmp_path / 'colon')}")
    assert data.classes == ("negative", "positive")
    assert data.groups is not None
    assert data.splits is not None
    assert len(data) == 36
    assert len(set(data.groups)) == 12
    assert data.groups[0] == data.names[0][:-9]
    assert (data.splits == "test").sum() == 18


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
            assert data.splits is not None
            assert (data.splits[episode.test] == "test").all()
    share = read_episode(data, source.official_list(tmp_path / task, 0.2, "official"))
    assert len(share.support) == len((lists / "train_20.txt").read_text().splitlines())
    draw_episode(data, 1)  # no study stands in both the training and the test set


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
        ("../../etc/passwd.png 1", "no plain file name"),
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


def isic(folder: Path) -> Path:
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    for part, count in {"Training": 21, "Test": 7}.items():
        stem = f"ISIC2018_Task3_{part}"
        names = [f"ISIC_{part}_{i:04}" for i in range(count)]
        table = pd.DataFrame(np.eye(7)[np.arange(count) % 7], columns=classes)
        table.insert(0, "image", names)
        (folder / f"{stem}_GroundTruth").mkdir(parents=True)
        table.to_csv(folder / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv", index=False)
        draw_images(folder / f"{stem}_Input", [f"{name}.jpg" for name in names])
        if part == "Training":
            lesions = pd.DataFrame(
                {"image": names, "lesion_id": [f"L{i // 14}" for i in range(21)]}
            )
            lesions.to_csv(folder / f"{stem}_LesionGroupings.csv", index=False)
    return folder


def test_isic_2018_has_lesions_as_groups(tmp_path: Path) -> None:
    data = open_dataset(f"isic2018:{isic(tmp_path)}")
    assert len(data) == 28
    assert data.classes[:2] == ("MEL", "NV")
    assert data.targets.tolist() == [i % 7 for i in range(21)] + list(range(7))
    assert data.groups is not None
    assert data.groups[:21].tolist() == [f"L{i // 14}" for i in range(21)]
    assert data.splits is not None
    assert (data.splits == "test").sum() == 7
    shutil.rmtree(tmp_path / "ISIC2018_Task3_Test_GroundTruth")
    assert open_dataset(f"isic2018:{tmp_path}").splits is None


def test_a_wrong_isic_table_names_its_row(tmp_path: Path) -> None:
    isic(tmp_path)
    file = (
        tmp_path / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    )
    table = pd.read_csv(file)
    table.loc[4, "MEL"] = 1
    table.to_csv(file, index=False)
    with pytest.raises(InputError, match="row 6: exactly one class"):
        open_dataset(f"isic2018:{tmp_path}")
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    table.loc[4, "MEL"] = 0
    table.to_csv(file, index=False)
    with pytest.raises(InputError, match="LesionGroupings"):
        open_dataset(f"isic2018:{tmp_path}")


@pytest.mark.parametrize(("name", "size", "shape"), [("blood", 28, (3,)), ("chest", 64, ())])
def test_medmnist_is_read_through_its_package(
    name: str, size: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    medmnist = pytest.importorskip("medmnist")
    random = np.random.default_rng(0)
    labels = len(medmnist.INFO[f"{name}mnist"]["label"])
    arrays = {}
    for split, n in {"train": 9, "val": 2, "test": 4}.items():
        arrays[f"{split}_images"] = random.integers(0, 256, (n, size, size, *shape), dtype=np.uint8)
        many = random.integers(0, 2, (n, labels)) if name == "chest" else np.arange(n)[:, None] % 8
        arrays[f"{split}_labels"] = many.astype(np.uint8)
    stem = f"{name}mnist" if size == 28 else f"{name}mnist_{size}"
    np.savez(tmp_path / f"{stem}.npz", **arrays)
    source = f"medmnist-{name}" if size == 28 else f"medmnist-{name}-{size}"
    data = open_dataset(f"{source}:{tmp_path}")
    assert len(data) == 15
    assert len(data.classes) == labels
    assert data.task == ("multilabel" if name == "chest" else "multiclass")
    assert np.array_equal(np.asarray(data.images[0]), arrays["train_images"][0])
    assert np.array_equal(data.targets[11:], arrays["test_labels"].squeeze())
    (tmp_path / f"{stem}.npz").write_bytes(b"PK broken")
    with pytest.raises(InputError, match="download it again"):
        open_dataset(f"{source}:{tmp_path}")
    with pytest.raises(InputError, match="download=True"):
        open_dataset(f"medmnist-path:{tmp_path}")


def test_columns_cannot_be_named_for_a_data_set_that_knows_its_own(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon")
    with pytest.raises(InputError, match="label_column"):
        open_dataset(f"medfmc-colon:{folder}", label_column="label")
    with pytest.raises(InputError, match="negative, positive"):
        open_dataset(f"medfmc-colon:{folder}", classes=["a", "b"])


def test_a_submission_is_written_and_scored_by_the_commands(tmp_path: Path) -> None:
    folder = small_colon(tmp_path / "colon", studies=4)
    source, run = f"medfmc-colon:{folder}", CliRunner().invoke
    fit = ["fit", source, "--out", str(tmp_path / "fit"), "--shots", "1", "--episode", "exp2"]
    done = run(app, [*fit, "--method", "prototype"])
    assert done.exit_code == 0, done.output
    for names, file in {"test_WithoutLabel.txt": "a.csv", "test_WithLabel.txt": "b.csv"}.items():
        command = ["predict", str(tmp_path / "fit"), source, "--format", "medfmc", "--list", names]
        done = run(app, [*command, "--out", str(tmp_path / file)])
        assert done.exit_code == 0, done.output
    written = pd.read_csv(tmp_path / "a.csv", header=None)
    assert written[0].tolist() == (folder / "test_WithoutLabel.txt").read_text().splitlines()
    assert np.allclose(written[[1, 2]].sum(axis=1), 1, atol=1e-6)
    command = ["evaluate", source, str(tmp_path / "b.csv"), "--format", "medfmc", "--json"]
    scored = run(app, command)
    direct = run(app, ["evaluate", str(tmp_path / "fit"), source, "--json"])
    assert scored.exit_code == direct.exit_code == 0, scored.output
    import json

    values = json.loads(scored.stdout)[str(tmp_path / "b.csv")]
    expected = json.loads(direct.stdout)
    for name in ("accuracy", "auroc", "brier"):
        assert values[name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)


def test_the_sample_submissions_have_the_form_that_is_written() -> None:
    samples = shared_data("data", "medfmc-annotations", "sample-submission")
    for task in TASKS:
        table = pd.read_csv(samples / f"{task}_5-shot_submission.csv", header=None)
        listed = shared_data("data", "medfmc-annotations", task) / "test_WithoutLabel.txt"
        names = listed.read_text().splitlines()
        assert table[0].tolist() == names[: len(table)]
        assert table.shape[1] - 1 == len(SOURCES[f"medfmc-{task}"].classes)  # type: ignore[attr-defined]


def test_a_bad_submission_names_its_row(tmp_path: Path) -> None:
    source, run = f"medfmc-colon:{small_colon(tmp_path / 'colon')}", CliRunner().invoke
    names = (tmp_path / "colon" / "test_WithLabel.txt").read_text().splitlines()
    rows = [f"{name.rsplit(' ', 1)[0]},0.25,0.75" for name in names]
    for change, message in {
        "x.png,0.5": "row 2: give an image's name and 2 probabilities",
        "x.png,0.5,nan": "row 2",
        "x.png,1.5,0.5": "row 2",
        "x.png,0.5,0.5": "1 of 18 labelled images are missing",
        rows[1].replace("0.75", "0.85"): "do not sum to 1",
    }.items():
        (tmp_path / "s.csv").write_text("\n".join([rows[0], change, *rows[2:]]))
        done = run(app, ["evaluate", source, str(tmp_path / "s.csv"), "--format", "medfmc"])
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)


def test_medfmc_passes_the_quick_check(tmp_path: Path) -> None:
    data = open_dataset(f"medfmc-colon:{small_colon(tmp_path / 'colon')}")
    episode = draw_episode(data, 1)
    assert quick_check(data.subset(episode.support), data.subset(episode.test)) == []
