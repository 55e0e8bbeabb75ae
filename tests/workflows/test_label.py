"""`medept suggest`: what it writes, what it reads, and features that are computed once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import refuse, run
from PIL import Image

from medept import InputError
from medept.data.cases import Item, images_of
from medept.data.dataset import read_dataset
from medept.data.images import read_image
from medept.labelling.feature_cache import FeatureCache
from medept.labelling.pool import open_pool
from medept.labelling.store import Answer, LabelStore
from medept.workflows.label import import_labels, read_answers, write_labels


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(8):
        place = tmp_path / "pool" / f"p{i // 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.uint8(rng.integers(0, 60, (24, 24, 3)) + 150 * (i // 4))
        Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path / "pool"


def test_suggestions_are_a_table_that_fit_takes(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--strategy", "centres", "--features", tmp_path / "kept"]
    assert run("suggest", pool, "--count", 4, "--out", tmp_path / "s.csv", *options, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["suggestions"]
    assert len({row["image"] for row in rows}) == 4
    table = pd.read_csv(tmp_path / "s.csv", dtype=str)
    table["label"] = ["dark" if int(Path(x).stem) < 4 else "bright" for x in table["image"]]
    assert set(table["label"]) == {"dark", "bright"}
    table.to_csv(tmp_path / "labelled.csv", index=False)
    assert len(read_dataset(tmp_path / "labelled.csv")) == 4
    more = ["--labelled", tmp_path / "labelled.csv", "--out", tmp_path / "t.csv"]
    assert run("suggest", pool, *more, *options) == 0
    rest = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert not set(rest["image"]) & set(table["image"])
    assert len(rest) == 4
    refuse(capsys, ["suggest", str(pool), *map(str, more)], "exists already")


def test_what_was_not_sure_is_not_suggested_again(pool: Path, tmp_path: Path) -> None:
    found = open_pool(pool, case="folder")
    assert [subject.name for subject in found.subjects] == ["p0", "p1", "p2", "p3"]
    store = LabelStore(tmp_path / "labels.csv")
    store.answer(found.subjects[0], Answer("dark"))
    store.answer(found.subjects[1], Answer(None))
    assert read_answers(found, store.file) == {"p0": "dark", "p1": None}
    more = ["--labelled", store.file, "--case", "folder", "--strategy", "random"]
    assert run("suggest", pool, *more, "--out", tmp_path / "s.csv") == 0
    table = pd.read_csv(tmp_path / "s.csv", dtype=str)
    assert set(table["case"]) == {"p2", "p3"}
    assert len(table) == 4


def test_features_are_computed_once(pool: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def encode(items: Sequence[Item]) -> np.ndarray:
        asked.append(len(items))
        return np.stack([np.asarray(read_image(x)).mean(axis=(0, 1)) for x in images_of(items)])

    def opened() -> FeatureCache:
        return FeatureCache(open_pool(pool), tmp_path / "kept", "means", encode)

    assert opened().compute_part(3)
    whole = opened().whole()
    np.testing.assert_allclose(whole, encode(open_pool(pool).items), rtol=1e-3)
    assert asked == [3, 5, 8]
    Image.new("RGB", (24, 24)).save(pool / "p0" / "0.png")  # one has changed, one part is damaged
    sorted((tmp_path / "kept").iterdir())[0].write_bytes(b"")
    again = opened()
    assert 0 < len(again.rows) < 8
    fresh = again.whole()
    assert np.flatnonzero((fresh != whole).any(axis=1)).tolist() == [0]
    asked.clear()
    np.testing.assert_array_equal(opened().whole(), fresh)
    assert asked == []


def test_what_cannot_be_read_is_left_out_or_named(pool: Path, tmp_path: Path) -> None:
    (pool / "p0" / "0.png").write_bytes(b"no image")

    def encode(items: Sequence[Item]) -> np.ndarray:
        return np.stack([np.asarray(read_image(x)).mean(axis=(0, 1)) for x in images_of(items)])

    cache = FeatureCache(open_pool(pool), tmp_path / "kept", "means", encode)
    with pytest.raises(InputError, match="0.png"):
        cache.whole()
    while cache.compute_part(1, skip_unreadable=True):
        pass
    assert cache.complete
    assert sorted(cache.rows) == [1, 2, 3, 4, 5, 6, 7]
    assert "0.png" in cache.unreadable[0]


@pytest.mark.parametrize("name", ["labels.csv", "out/labels.csv", "pool/labels.json"])
def test_labels_handed_on_are_read_back(pool: Path, tmp_path: Path, name: str) -> None:
    found = open_pool(pool)
    labels = {subject.name: "ab"[i % 2] for i, subject in enumerate(found.subjects[:5])}
    write_labels(found, labels, tmp_path / name)
    data = read_dataset(tmp_path / name, image_root=pool if "out" in name else None)
    assert data.labels.tolist() == list("ababa")
    assert import_labels(found, tmp_path / name) == labels
    with pytest.raises(InputError, match="exists"):
        write_labels(found, labels, tmp_path / name)
