"""No image that an adapter was fitted to, nor another of its group, is left to test on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medept import FewShotClassifier
from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.errors import InputError
from medept.fits.tables import write_support
from medept.fits.training_images import exclude_training_images
from medept.phantoms import make_phantoms, write_phantoms

SUPPORT = (0, 15)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImages, Path]:
    """Two images of each of eight patients, and an adapter fitted to the first and the last."""
    folder = tmp_path_factory.mktemp("fitted")
    drawn = make_phantoms("colon", patients=8, images_per_patient=2, size=48)
    data = read_dataset(write_phantoms(drawn, folder / "data"))
    support = data.subset(SUPPORT)
    classifier = FewShotClassifier(method="prototype", calibrate="none")
    classifier.fit(support.images, support.labels).save(folder / "fit")
    write_support(folder / "fit", support)
    return data, folder / "fit"


def left(data: LabelledImages, *fits: Path) -> list[int]:
    """Rows of the images that are left."""
    kept = exclude_training_images(data, fits).names
    return [i for i, name in enumerate(data.names) if name in kept]


def test_images_are_known_by_name_by_content_and_by_group(
    fitted: tuple[LabelledImages, Path],
) -> None:
    data, fit = fitted
    alone = replace(data, groups=None)
    others = [i for i in range(16) if i not in SUPPORT]
    assert left(alone, fit) == others
    renamed = replace(alone, names=tuple(f"new/{name}" for name in data.names))
    assert left(renamed, fit) == others, "known by the hash of the file"
    pixels = replace(alone, images=tuple(np.zeros((8, 8, 3), np.uint8) for _ in data.images))
    assert left(pixels, fit) == others, "known by name"
    assert data.groups is not None
    assert (
        left(data, fit) == np.flatnonzero(~np.isin(data.groups, data.groups[[*SUPPORT]])).tolist()
    )


def test_only_test_images_are_left_of_a_split(fitted: tuple[LabelledImages, Path]) -> None:
    data, fit = fitted
    splits = np.array(["train"] * 6 + ["val"] * 4 + ["test"] * 6)
    assert left(replace(data, groups=None, splits=splits), fit) == [10, 11, 12, 13, 14]
    with pytest.raises(InputError, match="no row of test"):
        exclude_training_images(replace(data, splits=np.array(["train"] * 16)), [fit])


def test_what_cannot_be_known_is_said(
    fitted: tuple[LabelledImages, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, fit = fitted
    with caplog.at_level(logging.INFO, logger="medept"):
        assert len(left(replace(data, groups=None), fit, tmp_path)) == 14
    assert "support.csv is missing: its training images cannot be left out" in caplog.text
    assert "fitted with groups, but these data have none" in caplog.text
    assert "2 of 16 images are left out" in caplog.text
    with pytest.raises(InputError, match="give images of other patients"):
        exclude_training_images(data.subset(SUPPORT), [fit])
