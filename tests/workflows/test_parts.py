"""Predictions written in parts: a killed run goes on, and the parts add up to the whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from PIL import Image

from medept import FewShotClassifier
from medept.data.find_images import find_images
from medept.errors import DataError
from medept.training.extractor import FeatureExtractor
from medept.workflows.embed import embed
from medept.workflows.predict import predict

N, PART = 10, 4


class Killed(BaseException):
    """As SIGKILL does, it leaves nobody time to tidy up."""


@pytest.fixture(scope="module")
def classifier() -> FewShotClassifier:
    grey = [np.full((64, 64, 3), value, np.uint8) for value in (10, 30, 220, 240)]
    one = FewShotClassifier(method="prototype", readout="pooled", symmetry="none", device="cpu",
                            precision="float32")  # fmt: skip
    return one.fit(grey, ["dark", "dark", "bright", "bright"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(N):
        Image.new("RGB", (64, 64), (25 * i,) * 3).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


class Counting:
    """Counts the images that are read, and is killed at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill_at: int = 0) -> None:
        self.read: list[str] = []
        from medept.data import images

        own = images._from_path

        def counted(path: Path) -> Image.Image:
            self.read.append(path.name)
            if len(self.read) == kill_at:
                raise Killed
            return own(path)

        monkeypatch.setattr(images, "_from_path", counted)


@pytest.mark.parametrize("out", ["p.csv", "p.parquet", "parts"])
def test_a_killed_prediction_goes_on_where_it_was(
    classifier: FewShotClassifier, folder: Path, tmp_path: Path, out: str
) -> None:
    found = find_images([folder])
    predict(classifier, found, tmp_path / "whole.csv")
    with pytest.MonkeyPatch.context() as patch:
        Counting(patch, kill_at=PART + 3)
        with pytest.raises(Killed):
            predict(classifier, found, tmp_path / out, part_rows=PART)
    with pytest.MonkeyPatch.context() as patch:
        counted = Counting(patch)
        written = predict(classifier, found, tmp_path / out, part_rows=PART)
    assert len(counted.read) == N - PART  # the first part is not computed again
    assert written.rows == N
    rows = (pd.read_csv if out.endswith("csv") else pd.read_parquet)(tmp_path / out)
    expected = pd.read_csv(tmp_path / "whole.csv")
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False, rtol=1e-5)
    assert {file.name for file in tmp_path.iterdir()} == {"images", "whole.csv", out}


def test_what_changed_meanwhile_is_computed_again(
    classifier: FewShotClassifier, folder: Path, tmp_path: Path
) -> None:
    (folder / "1.png").write_bytes(b"damaged")
    (folder / "9.png").write_bytes(b"damaged")
    found, out = find_images([folder]), tmp_path / "p.csv"
    with pytest.raises(DataError, match=r"9\.png|1\.png"):
        predict(classifier, found, out, part_rows=PART)
    with pytest.MonkeyPatch.context() as patch:
        Counting(patch, kill_at=9)
        with pytest.raises(Killed):
            predict(classifier, found, out, part_rows=PART, skip_unreadable=True)
    Image.new("RGB", (64, 64)).save(folder / "1.png")
    with pytest.MonkeyPatch.context() as patch:
        counted = Counting(patch)
        predict(classifier, found, out, part_rows=PART, skip_unreadable=True)
    assert sorted(counted.read) == [f"{i}.png" for i in (0, 1, 2, 3, 8, 9)]
    rows = pd.read_csv(out)
    assert rows["p_dark"].isna().tolist() == [False] * 9 + [True]
    assert re.search(r"9\.png: not an image", rows["unreadable"][9])


def test_a_folder_is_one_table_and_nothing_else_is_mixed_in(
    classifier: FewShotClassifier, folder: Path, tmp_path: Path
) -> None:
    """A part without a single readable image has the columns and types of the others."""
    for i in range(PART):
        (folder / f"{i}.png").write_bytes(b"damaged")
    found, out = find_images([folder]), tmp_path / "parts"
    written = predict(classifier, found, out, part_rows=PART, skip_unreadable=True)
    assert (written.rows, written.unreadable) == (N, PART)
    table = pyarrow.parquet.read_table(out)
    assert table.num_rows == N
    assert table.column("p_dark").null_count == PART
    with pytest.MonkeyPatch.context() as patch:
        counted = Counting(patch)
        predict(classifier, found, out, part_rows=PART, skip_unreadable=True)
    assert counted.read == []
    os.utime(folder / "9.png", (0, 0))
    with pytest.raises(DataError, match="holds other files .*name a new folder"):
        predict(classifier, found, out, part_rows=PART, skip_unreadable=True)


def test_cases_stay_whole_in_parts(
    classifier: FewShotClassifier, folder: Path, tmp_path: Path
) -> None:
    """Their images lie apart in the table; columns that differ anywhere are left out everywhere."""
    rows = [(f"{i}.png", i % 4, i % 4 if i else 9, f"s{i % 4}") for i in range(N)]
    table = folder / "t.csv"
    pd.DataFrame(rows, columns=["image", "case", "differs", "site"]).to_csv(table, index=False)
    found = find_images([table], case_column="case")
    for out, size in (("p.csv", 3), ("q.csv", N)):
        predict(classifier, found, tmp_path / out, part_rows=size, per_image=True)
    for name in ("p{}.csv", "p-images.csv"):
        parts = pd.read_csv(tmp_path / name.format(""))
        whole = pd.read_csv(tmp_path / name.format("").replace("p", "q", 1))
        pd.testing.assert_frame_equal(parts, whole, rtol=1e-4)
    assert list(pd.read_csv(tmp_path / "p.csv"))[:4] == ["case", "images", "site", "predicted"]


@pytest.mark.parametrize("out", ["f.npy", "f.csv", "f.parquet", "parts"])
def test_features_in_parts_are_those_of_the_whole(folder: Path, tmp_path: Path, out: str) -> None:
    extractor = FeatureExtractor.load(device="cpu", precision="float32")
    found = find_images([folder])
    (folder / "5.png").write_bytes(b"damaged")
    written = embed(extractor.features, found, tmp_path / out, identity="embedded",
                    skip_unreadable=True, part_rows=PART)  # fmt: skip
    assert (written.rows, written.unreadable) == (N, 1)
    expected = extractor.features(found.images, unreadable={})
    assert np.isnan(expected[5]).all()
    if out == "f.npy":
        features = np.load(tmp_path / out)
    else:
        table = (pd.read_csv if out.endswith("csv") else pd.read_parquet)(tmp_path / out)
        assert table.pop("image").tolist() == found.names
        assert "5.png: not an image" in table.pop("unreadable")[5]
        features = table.to_numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
