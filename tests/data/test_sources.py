"""Named data sets, read from folders that have their real layout and, where at hand, real lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import shared_data
from PIL import Image
from typer.testing import CliRunner

from medept import InputError
from medept.checks.check import check_dataset, quick_check
from medept.cli import app
from medept.data.images import read_image
from medept.data.labelled_images import LabelledImages
from medept.data.sources import SOURCES, official_list, open_dataset
from medept.data.sources.medmnist import MedMNIST
from medept.episodes.draw import draw_episode
from medept.episodes.lists import read_episode

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


def isic(folder: Path) -> Path:
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    for part, count in {"Training": 21, "Validation": 7, "Test": 7}.items():
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
    assert len(data) == 35
    assert data.classes[:2] == ("MEL", "NV")
    assert data.targets.tolist() == [i % 7 for i in range(35)]
    assert data.groups is not None
    assert data.groups[:21].tolist() == [f"L{i // 14}" for i in range(21)]
    assert data.splits is not None
    assert data.splits.tolist() == ["train"] * 21 + ["val"] * 7 + ["test"] * 7
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


@pytest.mark.parametrize("source", [name for name in SOURCES if name.startswith("medmnist-")])
def test_medmnist_is_read_through_its_package(source: str, tmp_path: Path) -> None:
    medmnist = pytest.importorskip("medmnist")
    name, _, size = source.removeprefix("medmnist-").partition("-")
    name, volumes, _ = name.partition("3d")
    flag, size = f"{name}mnist{volumes}", int(size or 28)
    info = medmnist.INFO[flag]
    shape, count = (3,) * (info["n_channels"] == 3), len(info["label"])
    shape = (size,) if volumes else shape
    many = info["task"].startswith("multi-label")
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in {"train": 9, "val": 2, "test": 4}.items():
        arrays[f"{split}_images"] = random.integers(0, 256, (n, size, size, *shape), dtype=np.uint8)
        labels = random.integers(0, 2, (n, count)) if many else np.arange(n)[:, None] % count
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    file = tmp_path / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")
    with pytest.raises(InputError, match=f"{file.name}.*download=True"):
        open_dataset(f"{source}:{tmp_path}")
    np.savez(file, **arrays)
    data = open_dataset(f"{source}:{tmp_path}")
    assert len(data) == 15
    assert len(data.classes) == count
    assert data.task == ("multilabel" if many else "multiclass")
    first = arrays["train_images"][0]
    middle = first[13 if size == 28 else 31]  # of 28 or 64, counted from 0
    assert np.array_equal(np.asarray(data.images[0]), middle if volumes else first)
    assert np.array_equal(data.targets[11:], arrays["test_labels"].squeeze())
    assert read_image(data.images[0]).size == (size, size)
    file.write_bytes(b"PK broken")
    with pytest.raises(InputError, match="download it again"):
        open_dataset(f"{source}:{tmp_path}")


def test_every_medmnist_at_every_size_has_a_name() -> None:
    medmnist = pytest.importorskip("medmnist")
    named = {(s.flag, s.size) for s in SOURCES.values() if isinstance(s, MedMNIST)}
    assert named == {
        (flag, size)
        for flag, info in medmnist.INFO.items()
        for size in getattr(medmnist, info["python_class"]).available_sizes
    }


def kvasir(folder: Path, count: int = 6) -> Path:
    """Pictures with discs, as Kvasir-SEG unpacks: JPEG for both, so masks are not quite binary."""
    names = [f"cju{i}.jpg" for i in range(count)]
    draw_images(folder / "images", names, size=32)
    (folder / "masks").mkdir()
    rows, columns = np.mgrid[:32, :32]
    for i, name in enumerate(names):
        disc = (rows - 16) ** 2 + (columns - 16) ** 2 < (4 + i) ** 2
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / name)
    return folder


def test_kvasir_seg_is_read_with_its_masks_and_checked(tmp_path: Path) -> None:
    folder = kvasir(tmp_path / "Kvasir-SEG")
    data = open_dataset(f"kvasir-seg:{tmp_path}")
    assert data.classes == ("polyp",)
    assert data.masks == tuple(folder / "masks" / name for name in data.names)
    assert data.subset([2]).masks == data.masks[2:3]
    assert not check_dataset(data).findings
    Image.new("L", (32, 32)).save(folder / "masks" / "cju1.jpg")
    Image.new("L", (30, 32), 255).save(folder / "masks" / "cju3.jpg")
    (folder / "masks" / "cju4.jpg").write_bytes(b"no mask")
    (finding,) = check_dataset(data).findings
    assert (finding.kind, finding.flatters) == ("masks", False)
    assert finding.sets == ((1,), (3,), (4,))
    assert finding.notes[0] == "marks nothing"
    assert finding.notes[1] == "30 x 32 pixels, its image 32 x 32"
    assert "cju4.jpg: not an image" in finding.notes[2]
    (folder / "masks" / "cju5.jpg").unlink()
    with pytest.raises(InputError, match=r"1 files are missing: masks/cju5\. .*https://"):
        open_dataset(f"kvasir-seg:{folder}")


def test_one_class_cannot_be_classified(tmp_path: Path) -> None:
    kvasir(tmp_path)
    command = ["fit", f"kvasir-seg:{tmp_path}", "--out", str(tmp_path / "fit"), "--shots", "2"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError)
    assert "all labels are 'polyp': at least two classes" in str(done.exception)


def test_the_real_kvasir_seg_has_a_mask_for_each_picture() -> None:
    data = open_dataset(f"kvasir-seg:{shared_data('data', 'kvasir-seg')}")
    assert len(data) == 300
    assert not check_dataset(data).findings


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
