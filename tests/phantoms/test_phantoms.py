"""Phantoms: the same bytes from a seed, patients one can recognise, signs that fade."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.errors import InputError
from medept.phantoms import TASKS, make_phantoms, write_phantoms
from medept.phantoms.chest import ChestPatient
from medept.phantoms.colon import ColonPatient
from medept.phantoms.endo import EndoPatient
from medept.phantoms.patient import Patient

SMALL = {"patients": 4, "images_per_patient": 2, "size": 48}


@pytest.fixture(scope="module", params=TASKS)
def cohort(request: pytest.FixtureRequest) -> LabelledImages:
    """40 patients with 3 images each, at the default difficulty."""
    return make_phantoms(request.param, patients=40, images_per_patient=3, size=48)


def _digest(data: LabelledImages) -> str:
    return hashlib.sha256(np.stack(data.images).tobytes() + data.targets.tobytes()).hexdigest()


def _distances(data: LabelledImages, side: int = 16) -> np.ndarray:
    """Squared distances (n, n) of small copies of the images; of each to itself: infinite."""
    small = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BOX) for image in data.images
    ]
    pixels = np.stack([np.asarray(image, dtype=float).ravel() for image in small])
    squares = ((pixels[:, None] - pixels) ** 2).sum(axis=-1)
    np.fill_diagonal(squares, np.inf)
    return squares


# What is made ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_shapes_types_and_names(task: str) -> None:
    data = make_phantoms(task, **SMALL)
    assert len(data) == 8
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in data.images)
    assert data.names[:3] == ("patient-000_0.png", "patient-000_1.png", "patient-001_0.png")
    assert data.groups is not None
    assert data.groups.tolist() == [name.split("_")[0] for name in data.names]
    if task == "colon":
        assert data.task == "multiclass"
        assert data.targets.dtype == np.int64
    else:
        assert data.task == "multilabel"
        assert data.targets.dtype == np.uint8
        assert data.targets.shape == (8, len(data.classes))
    assert all(image.std() > 10 for image in data.images)


@pytest.mark.parametrize("size", [32, 97, 224])
@pytest.mark.parametrize("task", TASKS)
def test_the_size_changes_the_pixels_not_the_picture(task: str, size: int) -> None:
    def small(image: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(image).resize((16, 16), Image.Resampling.BOX)
        return np.asarray(picture, dtype=float)

    for image, other in zip(
        make_phantoms(task, patients=2, images_per_patient=1, size=size).images,
        make_phantoms(task, patients=2, images_per_patient=1, size=128).images,
        strict=True,
    ):
        assert image.shape == (size, size, 3)
        assert np.corrcoef(small(image).ravel(), small(other).ravel())[0, 1] > 0.9


def test_every_class_is_present(cohort: LabelledImages) -> None:
    """At least six patients have it and six have not, which leaves some to test on."""
    targets = cohort.targets
    rows = targets if targets.ndim == 2 else np.eye(len(cohort.classes))[targets]
    for column in rows.T:
        for value in (0, 1):
            assert len(np.unique(cohort.groups[column == value])) >= 6
    if targets.ndim == 2:
        assert (rows.sum(axis=1) == 0).any(), "no image without a finding"
        assert (rows.sum(axis=1) > 1).any(), "no image with two"


@pytest.mark.parametrize("task", TASKS)
def test_patients_are_dealt_out_evenly(task: str) -> None:
    """Whatever the seed, a class is never left to luck."""
    for seed in range(3):
        data = make_phantoms(task, patients=12, images_per_patient=2, size=32, seed=seed)
        rows = data.targets if data.targets.ndim == 2 else np.eye(2)[data.targets]
        assert rows.any(axis=0).all()


# Randomness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_bytes(task: str) -> None:
    first = make_phantoms(task, seed=3, **SMALL)
    assert _digest(first) == _digest(make_phantoms(task, seed=3, **SMALL))
    other = make_phantoms(task, seed=4, **SMALL)
    assert not any(np.array_equal(a, b) for a in first.images for b in other.images)


GOLDEN = {
    "colon": "d7cf8b69f3e9c36469d776f56d96a87069759b6a5d4f7080405b6c14bdec8551",
    "chest": "da8e3eb132414aa69cc2a96ef50fbad9d83e07f0e5f8fc593d256adda61c334c",
    "endo": "e036ef883e5a3c6ee2197787fef743273051bfb3df312c9ab5511eebc305e763",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_bytes_do_not_change_from_version_to_version(task: str) -> None:
    data = make_phantoms(task, patients=6, images_per_patient=2, size=40, difficulty=0.5)
    assert _digest(data) == GOLDEN[task]


@pytest.mark.parametrize("task", TASKS)
def test_more_patients_or_images_change_none_of_the_others(task: str) -> None:
    few = make_phantoms(task, patients=3, images_per_patient=2, size=32)
    many = make_phantoms(task, patients=7, images_per_patient=3, size=32)
    for row, name in enumerate(few.names):
        same = many.names.index(name)
        np.testing.assert_array_equal(few.images[row], many.images[same])
        np.testing.assert_array_equal(few.targets[row], many.targets[same])


@pytest.mark.parametrize("task", TASKS)
def test_no_image_is_drawn_twice(task: str) -> None:
    data = make_phantoms(task, patients=8, images_per_patient=4, size=32)
    assert len({image.tobytes() for image in data.images}) == len(data)


# Difficulty --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sign"),
    [(kind, sign) for kind in (ChestPatient, EndoPatient) for sign in range(len(kind.classes))],
    ids=lambda value: str(value) if isinstance(value, int) else value.__module__.split(".")[-1],
)
def test_a_finding_fades_with_difficulty(kind: type[Patient], sign: int) -> None:
    """An image with a finding differs from the same without it, and less the harder it is."""
    none = np.zeros(len(kind.classes), dtype=np.uint8)
    one = np.eye(len(kind.classes), dtype=np.uint8)[sign]

    def change(difficulty: float) -> float:
        differences = []
        for k in range(8):
            patient = kind.random(np.random.default_rng(k))
            images = [
                patient.draw(signs, 48, difficulty, np.random.default_rng([1, k]))
                for signs in (one, none)
            ]
            differences.append(np.abs(np.subtract(*images, dtype=float)).mean())
        return float(np.mean(differences))

    easy, middle, hard = change(0.0), change(0.5), change(1.0)
    assert easy > 1.2 * middle > 1.4 * hard > 0


def test_tumours_come_to_look_normal_with_difficulty() -> None:
    """Tumour is darker than the same patient's normal tissue, by ever fewer deviations."""

    def effect(difficulty: float) -> float:
        differences = []
        for k in range(24):
            patient = ColonPatient.random(np.random.default_rng(k))
            normal, tumour = (
                patient.draw(np.array(signs), 32, difficulty, np.random.default_rng([1, k]))
                for signs in ([1, 0], [0, 1])
            )
            differences.append(normal.mean() - tumour.mean())
        return float(np.mean(differences) / np.std(differences))

    easy, middle, hard = effect(0.0), effect(0.5), effect(1.0)
    assert easy > 1.15 * middle > 1.3 * hard


# Patients ----------------------------------------------------------------------------------------


def test_a_patient_can_be_recognised(cohort: LabelledImages) -> None:
    """The most similar image is far more often of the same patient than by chance (2 %)."""
    nearest = _distances(cohort).argmin(axis=1)
    assert (cohort.groups[nearest] == cohort.groups).mean() > 0.2


def test_leakage_flatters(cohort: LabelledImages) -> None:
    """The nearest neighbour tells the labels much better if it may be of the same patient."""
    rows = cohort.targets if cohort.targets.ndim == 2 else cohort.targets[:, None]
    distances = _distances(cohort, side=4)
    within = cohort.groups[:, None] == cohort.groups
    leaking = (rows[distances.argmin(axis=1)] == rows).mean()
    honest = (rows[np.where(within, np.inf, distances).argmin(axis=1)] == rows).mean()
    assert leaking > honest + 0.1
    assert honest < 0.75


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_is_read_back(task: str, tmp_path) -> None:
    data = make_phantoms(task, patients=12, images_per_patient=2, size=32)
    read = read_dataset(write_phantoms(data, tmp_path / "new" / "folder"))
    assert read.names == data.names
    assert read.classes == data.classes
    assert read.task == data.task
    assert read.targets.dtype == data.targets.dtype
    np.testing.assert_array_equal(read.targets, data.targets)
    np.testing.assert_array_equal(read.groups, data.groups)
    for path, image in zip(read.images, data.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


def test_labels_that_never_meet_are_read_back_as_labels(tmp_path) -> None:
    data = make_phantoms("endo", patients=20, images_per_patient=3, size=32)
    single = data.subset(np.flatnonzero(data.targets.sum(axis=1) < 2))
    read = read_dataset(write_phantoms(single, tmp_path))
    np.testing.assert_array_equal(read.targets, single.targets)


def test_a_folder_in_use_is_left_alone(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    data = make_phantoms("colon", **SMALL)
    with pytest.raises(InputError, match="not an empty folder"):
        write_phantoms(data, tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_phantoms(data, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_names_stay_in_the_folder(tmp_path) -> None:
    data = replace(make_phantoms("colon", **SMALL).subset([0]), names=("../out.png",))
    with pytest.raises(InputError, match=r"\.\./out\.png"):
        write_phantoms(data, tmp_path / "phantoms")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    with pytest.raises(OSError, match="no space"):
        write_phantoms(make_phantoms("colon", **SMALL), tmp_path / "phantoms")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "liver"}, "'liver'.*colon, chest, endo"),
        ({"patients": 1}, "patients=1:.*at least 2"),
        ({"images_per_patient": 0}, "images_per_patient=0"),
        ({"size": 31}, "size=31:.*at least 32"),
        ({"difficulty": 1.1}, "difficulty=1.1:.*between 0 and 1"),
        ({"difficulty": float("nan")}, "difficulty=nan"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_phantoms(**({"task": "colon"} | arguments))
