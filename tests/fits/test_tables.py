"""Tables of a fit are read back as they were written, and what is damaged is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medept.data.labelled_images import LabelledImages
from medept.errors import InputError
from medept.fits.tables import (
    read_history,
    read_predictions,
    read_support,
    read_targets,
    write_history,
    write_predictions,
    write_support,
)

NAMES = ("=1+1", "-a.png", "b, c.png", 'd "e".png', "ü.png", "001")
"""Names that a spreadsheet, or a careless reader, would change."""

CLASSES = ("normal", "@home", "NA")


def labelled(targets: np.ndarray) -> LabelledImages:
    groups = np.array([f"0{i // 2}" for i in range(len(NAMES))])
    return LabelledImages(NAMES, NAMES, targets, CLASSES, groups=groups)


@pytest.mark.parametrize("targets", [np.arange(6) % 3, np.arange(18).reshape(6, 3) % 2])
def test_predictions_are_read_as_they_were_written(tmp_path: Path, targets: np.ndarray) -> None:
    data = labelled(targets)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    write_predictions(tmp_path, data, probabilities)
    table, read = read_predictions(tmp_path, CLASSES)
    assert [Path(name) for name in table["image"]] == [Path(name) for name in NAMES]
    assert table["group"].tolist() == ["00", "00", "01", "01", "02", "02"]
    np.testing.assert_allclose(read, probabilities, rtol=1e-5)
    file = tmp_path / "predictions.csv"
    np.testing.assert_array_equal(read_targets(table["label"], CLASSES, data.task, file), targets)
    decided = probabilities.argmax(axis=1) if targets.ndim == 1 else probabilities > 0.5
    np.testing.assert_array_equal(
        read_targets(table["predicted"], CLASSES, data.task, file), decided
    )


def test_the_support_set_has_the_hashes_of_its_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]))
    images = (*files, np.zeros((8, 8, 3), np.uint8))
    data = LabelledImages(images, ("0", "1", "2"), np.array([0, 1, 1]), ("a", "b"))
    write_support(tmp_path, data)
    table = read_support(tmp_path, 3)
    assert table["sha256"].tolist() == [
        *(hashlib.sha256(bytes([i])).hexdigest() for i in (0, 1)),
        "",
    ]
    assert table["label"].tolist() == ["a", "b", "b"]
    with pytest.raises(InputError, match=r"support.csv: damaged \(3 rows, .* fitted to 4 images"):
        read_support(tmp_path, 4)


def test_a_method_without_epochs_has_no_history(tmp_path: Path) -> None:
    write_history(tmp_path, [])
    assert read_history(tmp_path) is None
    rows = [{"trained": "head", "loss": 0.5}, {"trained": "all", "loss": 0.25}]
    write_history(tmp_path, rows)
    pd.testing.assert_frame_equal(read_history(tmp_path), pd.DataFrame(rows), check_dtype=False)


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"support.csv: missing; copy the whole folder"):
        read_support(tmp_path, 1)
    (tmp_path / "history.csv").write_text("trained,loss\nall,much\n")
    with pytest.raises(InputError, match=r"history.csv: damaged \(could not convert"):
        read_history(tmp_path)
    (tmp_path / "predictions.csv").write_text("image,label,p_normal\na.png,normal,1\n")
    with pytest.raises(InputError, match=r"predictions.csv: damaged \(no column p_@home, p_NA\)"):
        read_predictions(tmp_path, CLASSES)
    with pytest.raises(InputError, match=r"support.csv: row 3: 'zebra' is not a class"):
        read_targets(["normal", "zebra"], CLASSES, "multiclass", Path("support.csv"))
