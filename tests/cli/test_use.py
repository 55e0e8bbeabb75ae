"""`medept predict`, `embed` and `info`: what they write and print, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import refuse, run

from medept import FewShotClassifier


def test_predict_gives_a_row_an_image_and_a_column_a_class(
    fitted: Path, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    image = next(table.parent.glob("*.png"))
    assert run("predict", fitted, image, table.parent, "--out", out) == 0
    rows = pd.read_csv(out)
    assert list(rows) == [
        "image", "predicted", "p_normal", "p_tumour", "set", "unfamiliar", "unreadable",
    ]  # fmt: skip
    assert len(rows) == 25
    assert (rows.p_normal + rows.p_tumour - 1).abs().max() < 1e-5


def test_predict_reads_the_images_that_a_table_lists(
    fitted: Path, own_table: Path, tmp_path: Path
) -> None:
    listed = pd.read_csv(own_table).image[[3, 1, 2]]
    new = own_table.parent / "new.csv"
    pd.DataFrame({"site": "north", "file": listed}).to_csv(new, index=False)
    exact = ("--precision", "float32", "--out")
    assert run("predict", fitted, new, *exact, tmp_path / "p.csv") == 0
    rows = pd.read_csv(tmp_path / "p.csv").set_index("image")
    assert list(rows.index) == listed.tolist()  # as they were given
    assert set(rows.site) == {"north"}
    assert run("predict", fitted, own_table.parent, *exact, tmp_path / "all.csv") == 0
    everything = pd.read_csv(tmp_path / "all.csv").set_index("image")
    for path, row in rows.iterrows():
        whole = everything.p_tumour[str(own_table.parent / Path(path).name)]
        assert row.p_tumour == pytest.approx(whole, abs=1e-5)


def test_unreadable_images_of_a_folder_are_rows_that_say_why(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sorted(table.parent.glob("*.png"))[:3]
    folder = tmp_path / "images"
    folder.mkdir()
    for image in whole:
        shutil.copy(image, folder)
    (folder / "a-cut.png").write_bytes(whole[0].read_bytes()[:200])
    (folder / "b-text.png").write_text("not an image")
    out = tmp_path / "p.csv"
    assert run("predict", fitted, folder, "--out", out, "--strict") == 2
    assert "a-cut.png" in capsys.readouterr().err
    assert run("predict", fitted, folder / "a-cut.png", "--out", out) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"images"}
    assert run("predict", fitted, folder, "--out", out) == 0
    assert "2 of 5 have images that could not be read" in capsys.readouterr().err
    rows = pd.read_csv(out).set_index("image").rename(index=lambda name: Path(name).name)
    cut, text = rows.loc["a-cut.png"], rows.loc["b-text.png"]
    assert "a-cut.png: damaged" in cut.unreadable
    assert "b-text.png: not an image" in text.unreadable
    assert rows.p_tumour.isna().sum() == rows.predicted.isna().sum() == 2
    features = tmp_path / "f.npy"
    assert run("embed", folder, "--out", features) == 0
    assert np.isnan(np.load(features)).all(axis=1).tolist() == rows.p_tumour.isna().tolist()
    for image in whole:
        (folder / image.name).unlink()
    assert run("predict", fitted, folder, "--out", tmp_path / "q.csv", "--skip-unreadable") == 2
    assert "none of the 2 images can be read" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"images", "p.csv", "f.npy"}


def test_patterns_and_standard_input_name_images(
    fitted: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = sorted(str(file) for file in table.parent.glob("*.png"))[:3]
    for text in ("\n".join(listed), "\0".join([*listed, ""]), "\r\n".join([*listed, "no.png"])):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(text.encode())))
        assert run("predict", fitted, "-", "--out", tmp_path / "p.parquet") == 0
        rows = pd.read_parquet(tmp_path / "p.parquet")
        assert rows.image.tolist()[:3] == listed
        assert all("no.png: no such image" in why for why in rows.unreadable[3:])
        (tmp_path / "p.parquet").unlink()
    pattern = table.parent / "*.png"
    assert run("predict", fitted, pattern, "--out", tmp_path / "p.csv") == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24
    assert run("predict", fitted, table.parent / "*.jpg", "--out", tmp_path / "q.csv") == 2


@pytest.mark.parametrize(
    ("out", "message"),
    [("there.csv", "there.csv: exists already"), ("p.xlsx", r"written as .csv or .parquet"),
     ("there.csv/p.csv", "there.csv: part of this path is a file"), ("/proc/p.csv", "/proc/p.csv")],
)  # fmt: skip
def test_where_predictions_cannot_be_written(
    fitted: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str,
    message: str,
) -> None:  # fmt: skip
    (tmp_path / "there.csv").write_text("mine")
    image = str(small.parent / "a0.png")
    refuse(capsys, ["predict", str(fitted), image, "--out", str(tmp_path / out)], message)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"small", "there.csv"}


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_embed(
    table: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"features{suffix}"
    assert run("embed", table.parent, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 24
    images = sorted(table.parent.glob("*.png"))
    expected = FewShotClassifier(method="linear", precision="float32").embed(images)
    if suffix == ".npy":
        features = np.load(out)
    else:
        found = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
        del found["unreadable"]
        assert found.pop("image").tolist() == [str(image) for image in images]
        features = found.to_numpy()
    np.testing.assert_allclose(features, expected, atol=0.05 * abs(expected).max())
    assert np.corrcoef(features.ravel(), expected.ravel())[0, 1] > 0.999


def test_embed_as_adapted(fitted: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npy"
    assert run("embed", table, "--adapter", fitted, "--precision", "float32", "--out", out) == 0
    images = [table.parent / name for name in pd.read_csv(table).image]
    expected = FewShotClassifier.load(fitted, precision="float32").embed(images)
    np.testing.assert_allclose(np.load(out), expected, rtol=1e-4, atol=1e-5)


def test_predict_and_embed_read_the_tables_that_fit_reads(
    fitted: Path, table: Path, tmp_path: Path
) -> None:
    names = pd.read_csv(table)["image"]
    pd.DataFrame({"scan": names}).to_csv(tmp_path / "scans.csv", index=False)
    of_table = ["--image-column", "scan", "--image-root", table.parent]
    assert (
        run("predict", fitted, tmp_path / "scans.csv", "--out", tmp_path / "p.csv", *of_table) == 0
    )
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(names)
    assert run("embed", tmp_path / "scans.csv", "--out", tmp_path / "f.npy", *of_table) == 0
    assert len(np.load(tmp_path / "f.npy")) == len(names)


def test_info(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", fitted, "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "ept"
    assert run("info", fitted) == 0
    assert "normal, tumour" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["embed", "TABLE_FOLDER", "--adapter", "FIT", "--encoder", "vit_tiny_patch16_224"],
            "brings its own encoder",
        ),
        (["predict", "FIT", "FIT/history.csv"], "none of its columns .*--image-column"),
        (["predict", "FIT", "FIT/support.csv"], "images are missing"),
        (["predict", "FIT", "FIT/report.html"], "report.html: not an image"),
        (["predict", "FIT", "no.png"], "no.png: no such file"),
        (["predict", "nowhere", "TABLE"], "no adapter here"),
        (["info", "TABLE"], "no adapter here"),
        (["embed", "TABLE_FOLDER", "--out", "OUT.xlsx"], "features are written as"),
    ],
)
def test_refusals_of_use(refuses: Callable[..., None], arguments: list[str], message: str) -> None:
    refuses(arguments, message)
