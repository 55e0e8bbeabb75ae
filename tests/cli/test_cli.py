"""The command as a person uses it: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import run
from PIL import Image
from safetensors.torch import save
from sklearn.metrics import accuracy_score, roc_auc_score
from typer.testing import CliRunner

from medept import FewShotClassifier, cli
from medept.cli import console
from medept.cli.app import app
from medept.phantoms import make_phantoms, write_phantoms


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_phantoms("colon", patients=12, images_per_patient=2, size=64, difficulty=0.2)
    return write_phantoms(data, tmp_path_factory.mktemp("phantoms") / "colon")


@pytest.fixture(scope="module")
def fitted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fits") / "ept"
    run("fit", table, "--out", out, "--shots", "2", "--epochs", "2", "--device", "cpu",
        "--precision", "float32")  # fmt: skip
    return out


@pytest.fixture
def copied(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the fit, to damage."""
    return shutil.copytree(fitted, tmp_path / "copy")


def test_fit_writes_all_its_files(fitted: Path) -> None:
    assert sorted(p.name for p in fitted.iterdir()) == [
        "README.md", "adapter.json", "adapter.safetensors", "check.json", "distribution.csv",
        "figure2.png", "gates-by-head.png", "gates-by-layer.png", "gates.csv", "gates.png",
        "history.csv", "metrics.json", "predictions.csv", "report.html", "support.csv",
    ]  # fmt: skip
    modes = {(fitted / f"adapter.{suffix}").stat().st_mode for suffix in ("json", "safetensors")}
    assert len(modes) == 1, "whoever may read one may read the other"
    support, predictions = (pd.read_csv(fitted / f"{n}.csv") for n in ("support", "predictions"))
    assert len(support) + len(predictions) == 24
    assert not set(support.group) & set(predictions.group)
    assert pd.read_csv(fitted / "history.csv").trained.tolist() == ["head", "all"]
    adapter = json.loads((fitted / "adapter.json").read_text())
    assert adapter["classes"] == ["normal", "tumour"]
    assert len(adapter["encoder"]["sha256"]) == 64
    card = (fitted / "README.md").read_text()
    assert "Not a medical device" in card
    assert "http" not in card


@pytest.mark.parametrize("method", ["probe", "knn", "prototype"])
def test_a_method_without_epochs_has_no_history(table: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / method
    assert run("fit", table, "--out", out, "--shots", 2, "--method", method) == 0
    files = {p.name for p in out.iterdir()}
    assert "adapter.json" in files
    assert "history.csv" not in files


def test_metrics_are_those_of_the_predictions(fitted: Path) -> None:
    metrics = json.loads((fitted / "metrics.json").read_text())
    rows = pd.read_csv(fitted / "predictions.csv")
    accuracy = accuracy_score(rows.label, rows.predicted)
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    auroc = roc_auc_score(rows.label == "tumour", rows.p_tumour)
    assert metrics["auroc"]["value"] == pytest.approx(auroc, abs=1e-4)
    assert metrics["accuracy"]["n"] == len(rows)
    assert metrics["accuracy"]["low"] <= accuracy <= metrics["accuracy"]["high"]


def test_predict_gives_a_row_an_image_and_a_column_a_class(
    fitted: Path, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    image = next(table.parent.glob("*.png"))
    assert run("predict", fitted, image, table.parent, "--out", out) == 0
    rows = pd.read_csv(out)
    assert list(rows) == ["image", "predicted", "p_normal", "p_tumour"]
    assert len(rows) == 25
    assert (rows.p_normal + rows.p_tumour - 1).abs().max() < 1e-5


def test_predict_reads_the_images_that_a_table_lists(
    fitted: Path, table: Path, tmp_path: Path
) -> None:
    listed = pd.read_csv(table).image[[3, 1, 2]]
    new = table.parent / "new.csv"
    pd.DataFrame({"site": "north", "file": listed}).to_csv(new, index=False)
    exact = ("--precision", "float32", "--out")
    assert run("predict", fitted, new, *exact, tmp_path / "p.csv") == 0
    new.unlink()
    rows = pd.read_csv(tmp_path / "p.csv").set_index("image")
    assert list(rows.index) == [str((table.parent / name).resolve()) for name in listed]
    assert run("predict", fitted, table.parent, *exact, tmp_path / "all.csv") == 0
    everything = pd.read_csv(tmp_path / "all.csv").set_index("image")
    for path, row in rows.iterrows():
        whole = everything.p_tumour[str(table.parent / Path(path).name)]
        assert row.p_tumour == pytest.approx(whole, abs=1e-5)


def test_predict_leaves_unreadable_images_out_when_asked(
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
    assert run("predict", fitted, folder, "--out", out) == 2
    assert "a-cut.png" in capsys.readouterr().err
    assert not out.exists()
    with pytest.warns(UserWarning, match="left out") as warned:
        assert run("predict", fitted, folder, "--out", out, "--skip-unreadable") == 0
    assert [Path(name).name for name in pd.read_csv(out).image] == [p.name for p in whole]
    cut, text = [str(one.message) for one in warned]
    assert "a-cut.png: damaged" in cut
    assert "b-text.png: not an image" in text
    for image in whole:
        (folder / image.name).unlink()
    with pytest.warns(UserWarning, match="left out"):
        assert run("predict", fitted, folder, "--out", tmp_path / "q.csv", "--skip-unreadable") == 2
    assert "none of the 2 images can be read" in capsys.readouterr().err


def test_evaluate_on_its_own_test_rows_gives_its_own_metrics(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = set(pd.read_csv(fitted / "predictions.csv").image)
    rows = pd.read_csv(table)
    part = table.parent / "tested.csv"
    rows[rows.image.isin(tested)].to_csv(part, index=False)
    assert run("evaluate", fitted, part, "--json", "--precision", "float32") == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((fitted / "metrics.json").read_text())
    assert printed["auroc"]["value"] == pytest.approx(saved["auroc"]["value"], abs=1e-4)


def test_json_is_one_object_and_nothing_else(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("fit", table, "--out", tmp_path / "o", "--shots", 1, "--method", "linear",
               "--epochs", 1, "--json")  # fmt: skip
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["trainable_parameters"] == 2 * 192 + 2
    assert printed["support"] + printed["test"] == 24


@pytest.mark.parametrize("verb", ["encoders", "methods"])
def test_lists(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb) == 0
    assert {"encoders": "embedded", "methods": "ept"}[verb] in capsys.readouterr().out
    assert run(verb, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    if verb == "methods":
        compared = "full linear partial mlp bias lora adapter vp vpt ept probe knn prototype"
        assert {*compared.split(), "dora", "ia3", "norm"} <= set(listed)


def test_shots_beside_a_list_are_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "list.txt"
    chosen.write_text("a.png\n")
    assert run("fit", table, "--out", tmp_path / "o", "--episode", chosen, "--shots", 2) == 2
    assert "leave --shots 2 out" in capsys.readouterr().err


def test_few_test_images_are_said(
    table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("--shots", 1, "--method", "knn", "--json")
    assert run("fit", table, "--out", tmp_path / "few", *given) == 0
    assert "to test on: metrics and intervals of so few say little" in caplog.text


def test_one_method_tells_what_its_settings_mean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("methods", "vpt") == 0
    printed = capsys.readouterr().out
    assert "(optimizer sgd, lr 0.001, encoder-lr 0.003125)" in " ".join(printed.split())
    assert "1, 5, 10, 50, 100, 150" in printed
    assert "Prompt tokens per block." in printed
    assert run("methods", "nothing") == 2
    assert "no method is named" in capsys.readouterr().err


def test_info(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", fitted, "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "ept"
    assert run("info", fitted) == 0
    assert "normal, tumour" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_embed(
    table: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"features{suffix}"
    assert run("embed", table.parent, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [24, 192]
    images = sorted(table.parent.glob("*.png"))
    expected = FewShotClassifier(precision="float32").embed(images)
    if suffix == ".npy":
        features = np.load(out)
    else:
        found = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
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


def test_multi_label_from_table_to_predictions(tmp_path: Path) -> None:
    data = make_phantoms("endo", patients=10, images_per_patient=2, size=64)
    table = write_phantoms(data, tmp_path / "endo")
    out = tmp_path / "fit"
    assert run("fit", table, "--out", out, "--shots", 1, "--epochs", 1) == 0
    rows = pd.read_csv(table, keep_default_na=False)
    alone = table.parent / "alone.csv"
    rows[~rows.label.str.contains("|", regex=False)].to_csv(alone, index=False)
    assert run("evaluate", out, alone) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"map", "auroc", "f1", "ece", "brier"} <= set(metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.csv"], "nowhere.csv: no such table or folder"),
        (["fit", "TABLE", "--shots", "0"], "shots 0: give a whole number"),
        (["fit", "TABLE", "--shots", "many"], "shots many"),
        (["fit", "TABLE", "--method", "magic"], "use one of"),
        (["fit", "TABLE", "--recipe", "magic"], "medept, paper"),
        (["fit", "TABLE", "--encoder", "magic_net"], "medept encoders"),
        (["fit", "TABLE", "--epochs", "0"], "epochs"),
        (["fit", "TABLE", "--device", "cuda:9"], "not available|device"),
        (["fit", "TABLE", "--precision", "float7"], "float32"),
        (["fit", "TABLE", "--label-column", "colour"], "no column 'colour'"),
        (["fit", "TABLE", "--set", "length"], "NAME=VALUE"),
        (["fit", "TABLE", "--set", "size=3"], "settings are"),
        (["fit", "TABLE", "--prompt-length", "0"], "at least 1"),
        (["fit", "TABLE", "--set", "layers=99"], "layers 1 to"),
        (["fit", "TABLE", "--set", "=3"], "NAME=VALUE"),
        (["fit", "TABLE", "--set-recipe", "magic=3"], "magic: not known .*optimizer"),
        (["fit", "TABLE", "--method", "linear", "--prompt-length", "9"], "has no setting length"),
        (["fit", "TABLE", "--shots", "-1"], "shots -1: give a whole number"),
        (["fit", "TABLE", "--shots", "101%"], "shots 101%: give a whole number"),
        (["fit", "TABLE", "--seed", "-1"], "seed -1: give a whole number from 0"),
        (["fit", "TABLE", "--seed", str(10**20)], "give a whole number from 0"),
        (["fit", "TABLE", "--tune", "-1"], "tune=-1: give the number of trials"),
        (["fit", "TABLE", "--lr", "0"], "lr: .*greater than 0"),
        (["fit", "TABLE", "--lr", "inf"], "lr: .*less than"),
        (["fit", "TABLE", "--method", "linear", "--encoder-lr", "1"], "linear has no encoder_lr"),
        (["fit", "TABLE", "--method", "probe", "--lr", "1"], "probe has no lr.*no rate at all"),
        (["fit", "TABLE", "--method", "mlp-2", "--set", "k=4"], "its name says k=2"),
        (["fit", "TABLE", "--set", "length=3", "--set", "length=9"], "give one of them"),
        (["check", "TABLE", "--out", "TABLE_FOLDER"], "exists already"),
        (["fit", "TABLE", "--episode", "exp1"], "exp1: no such list"),
        (
            ["fit", "TABLE", "--group-column", "label", "--label-column", "label"],
            "'label' cannot be the label and something else",
        ),
        (["fit", "TABLE", "--label-column", "image"], "--image-column"),
        (["fit", "TABLE_FOLDER/patient-000_0.png"], r"must be \.csv"),
        (["fit", "TABLE_FOLDER"], "no subfolders"),
        (["fit", "TABLE", "--encoder-weights", "w.pth"], "leave --encoder-weights out"),
        (
            ["fit", "TABLE", "--encoder", "vit_tiny_patch16_224", "--encoder-weights", "w.pth"],
            "safetensors files alone",
        ),
        (
            ["embed", "TABLE_FOLDER", "--adapter", "FIT", "--encoder", "vit_tiny_patch16_224"],
            "brings its own encoder",
        ),
        (["fit", "TABLE", "--encoder", "vit_tinyy_patch16_224"], "such as vit_tiny_patch16_224"),
        (
            [
                "fit",
                "TABLE",
                "--encoder",
                "vit_tiny_patch16_224",
                "--encoder-weights",
                "FIT/adapter.safetensors",
            ],
            "an adapter, not an encoder's weights",
        ),
        (["predict", "FIT", "FIT/history.csv"], "none of its columns .*--image-column"),
        (["predict", "FIT", "FIT/support.csv"], "images are missing"),
        (["predict", "FIT", "FIT/report.html"], "report.html: not an image"),
        (["fit", "medmnist-foo:FIT"], "medept datasets"),
        (["evaluate", "FIT", "FIT/support.csv"], "images are missing"),
        (["evaluate", "FIT", "TABLE", "TABLE"], "one table or folder"),
        (["report", "TABLE_FOLDER"], "no adapter here"),
        (["bench", "magic"], "no suite 'magic'"),
        (["bench", "local", "--data", "mine=no.csv"], "no.csv: no such table or folder"),
        (["phantoms", "colon", "--size", "1000000"], "at most 4096"),
        (["predict", "FIT", "no.png"], "no.png: no such file"),
        (["predict", "nowhere", "TABLE"], "no adapter here"),
        (["evaluate", "nowhere", "TABLE"], "no adapter here"),
        (["info", "TABLE"], "no adapter here"),
        (["embed", "TABLE_FOLDER", "--out-suffix"], "features are written as"),
    ],
)
def test_refusals(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    places = {"TABLE": str(table), "FIT": str(fitted), "TABLE_FOLDER": str(table.parent)}
    arguments = [re.sub("^(TABLE_FOLDER|TABLE|FIT)", lambda m: places[m[0]], a) for a in arguments]
    out = tmp_path / ("out.npy" if arguments[0] == "embed" else "out.csv")
    if arguments[-1] == "--out-suffix":
        arguments, out = arguments[:-1], tmp_path / "out.xlsx"
    if arguments[0] in ("fit", "predict", "embed", "phantoms", "bench"):
        arguments += ["--out", str(out)]
    refuse(capsys, arguments, message)
    assert list(tmp_path.iterdir()) == []


def refuse(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("error: ") or "error:" in printed.err
    assert re.search(message, " ".join(printed.err.split()))
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter.json", b"{", "not an adapter that this version can read"),
        ("adapter.json", b'{"format": 99}', "not an adapter that this version can read"),
        ("adapter.json", None, "no adapter here"),
        ("adapter.json", b"[]", "not an adapter that this version can read"),
        ("adapter.json", b"\xff{", "not an adapter that this version can read"),
        ("adapter.safetensors", b"\x08", "damaged"),
        ("adapter.safetensors", pickle.dumps({"head.weight": [0.0]}) * 9, "damaged"),
        ("adapter.safetensors", save({"head.weight": torch.full((2, 192), torch.nan)}), "NaN"),
        ("adapter.safetensors", save({"x": torch.zeros(2)}), "does not fit"),
        ("adapter.safetensors", None, "copied whole"),
    ],
)
def test_damaged_adapters(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str], name: str,
    content: bytes | None, message: str,
) -> None:  # fmt: skip
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    refuse(capsys, ["evaluate", str(copied), str(table)], message)


@pytest.mark.parametrize("part", ["name", "sha256", "parameters", "preprocessing"])
def test_an_adapter_that_does_not_say_its_encoder(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    file = copied / "adapter.json"
    content = json.loads(file.read_text())
    del content["encoder"][part]
    file.write_text(json.dumps(content))
    refuse(capsys, ["evaluate", str(copied), str(table)], f"encoder.{part}: Field required")


@pytest.mark.parametrize("part", ["recipe", "settings"])
def test_an_adapter_of_another_version_says_so(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    file = copied / "adapter.json"
    content = json.loads(file.read_text())
    content[part]["brand_new"] = 1
    file.write_text(json.dumps(content))
    error = f"{copied.name}: it was fitted by another version of medept .*brand_new.*fit again"
    refuse(capsys, ["evaluate", str(copied), str(table)], error)


def test_other_encoder_weights_are_noticed(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / "adapter.json"
    text = file.read_text()
    sha = json.loads(text)["encoder"]["sha256"]
    file.write_text(text.replace(sha, "f" * 64))
    refuse(capsys, ["evaluate", str(copied), str(table)], "trained on other weights")


def test_a_damaged_image_is_named_and_nothing_is_written(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(make_phantoms("colon", patients=4, size=64), tmp_path / "d")
    victim = tmp_path / "d" / "patient-001_0.png"
    victim.write_bytes(victim.read_bytes()[:300])
    refuse(capsys, ["fit", str(tmp_path / "d" / "labels.csv"), "--out", str(tmp_path / "o"),
                    "--shots", "1", "--epochs", "1"], "patient-001_0.png: damaged")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_images_to_test_on_are_looked_at_before_training(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medept.classifier.fitting.train", lambda *_, **__: pytest.fail("trained"))
    for name in ("a4.png", "b4.png"):
        (small.parent / name).write_bytes(b"no image")
    list_file = small.parent / "list.txt"
    list_file.write_text("a0.png 0\nb0.png 1\n")
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--episode", str(list_file)],
           "a4.png: not an image .* .2 images cannot be read")  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Ten small images, half of them of class b, without groups."""
    random, folder = np.random.default_rng(0), tmp_path / "small"
    folder.mkdir()
    names = [f"{label}{i}.png" for label in "ab" for i in range(5)]
    for name in names:
        pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    table = folder / "t.csv"
    table.write_text("image,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    return table


def test_a_support_set_of_one_class_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_file = tmp_path / "list.txt"
    list_file.write_text("a0.png 0\na1.png 0\n")
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--method", "linear",
                    "--episode", str(list_file)], "all labels are 'a'")  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"small", "list.txt"}


@pytest.mark.parametrize("shots", [4, 1000])
def test_more_shots_than_there_are_leave_little_to_test_on(
    small: Path, tmp_path: Path, shots: int
) -> None:
    """One image of each class: nothing varies within a class, and nothing divides by that."""
    code = run("fit", small, "--out", tmp_path / "o", "--shots", shots, "--epochs", 1,
               "--method", "linear", "--calibrate", "none")  # fmt: skip
    assert code == 0
    assert len(pd.read_csv(tmp_path / "o" / "predictions.csv")) == 2


def test_training_that_diverges_is_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--shots", "2", "--method",
                    "linear", "--lr", "1e6", "--epochs", "30"], "diverged: .*--lr")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("option", ["--episodes", "--workers"])
def test_a_benchmark_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run("bench", "quick", "--out", tmp_path / "b", option, 0) == 2
    assert option in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate ...")

    monkeypatch.setattr("medept.classifier.fitting.train", exhausted)
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--shots", "1"],
           "not enough memory .*micro_batch=4")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


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


def test_evaluate_leaves_out_what_was_learnt_from(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("evaluate", fitted, table, "--json") == 0
    printed = capsys.readouterr()
    saved = json.loads((fitted / "metrics.json").read_text())
    assert json.loads(printed.out)["accuracy"]["n"] == saved["accuracy"]["n"] < 24
    assert "they, or others of their groups, were used for training" in printed.err
    learnt = table.parent / "learnt.csv"
    support = pd.read_csv(fitted / "support.csv")
    rows = pd.read_csv(table)
    rows[rows.image.isin(support.image)].to_csv(learnt, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(learnt)], "no image is left")
    rows.assign(split="train").to_csv(learnt, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(learnt)], "no row of test")
    learnt.unlink()


def test_evaluate_writes_a_folder_with_a_report(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere"
    assert run("evaluate", fitted, table, "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((out / "metrics.json").read_text()) == printed
    rows = pd.read_csv(out / "predictions.csv")
    assert len(rows) == printed["accuracy"]["n"]
    page = (out / "report.html").read_text()
    assert f"tested on {len(rows)} images" in page
    assert "were not checked" in page
    refuse(capsys, ["evaluate", str(fitted), str(table), "--out", str(out)], "exists already")


def test_classes_in_columns_are_classes_to_an_adapter_of_classes(
    fitted: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One-hot columns, as of ISIC 2018, of data to evaluate on."""
    rows, columns = pd.read_csv(table), ("--label-column", "normal,tumour")
    for name in ("normal", "tumour"):
        rows[name] = (rows.label == name).astype(int)
    flags = table.parent / "flags.csv"
    rows.drop(columns="label").to_csv(flags, index=False)
    found = []
    for data in ((table,), (flags, *columns)):
        assert run("evaluate", fitted, *data, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    rows.assign(normal=1).drop(columns="label").to_csv(flags, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(flags), *columns], "row 4: 2 of its labels are 1")
    flags.unlink()


def test_evaluate_of_an_adapter_without_its_support_set(
    copied: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "support.csv").unlink()
    assert run("evaluate", copied, table) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    refuse(capsys, ["evaluate", str(copied), str(table), "--out", str(out)], "leave --out out")
    assert not out.exists()


def test_the_working_folder_is_no_new_folder(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(capsys, ["fit", str(table), "--shots", "1", "--out", "."], "name a new folder")


def test_names_of_images_it_was_fitted_to_are_told_where_the_files_differ(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(table.parent, tmp_path / "other")
    for file in other.glob("*.png"):
        Image.open(file).rotate(90).save(file)
    assert run("evaluate", fitted, other / table.name) == 0
    assert "but other contents: they are left out" in capsys.readouterr().err


def test_evaluate_leaves_out_new_images_of_patients_it_was_fitted_to(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support = pd.read_csv(fitted / "support.csv")
    rows = pd.read_csv(table).merge(support[["image"]])
    rows["new"] = [f"later-{name}" for name in rows.image]
    for old, new in zip(rows.image, rows.new, strict=True):
        (tmp_path / new).write_bytes((table.parent / old).read_bytes())
    later = tmp_path / "later.csv"
    rows.drop(columns="image").rename(columns={"new": "image"}).to_csv(later, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(later)], "no image is left.*other patients")
    for file in tmp_path.glob("later-*.png"):  # not the same bytes, so that patients alone tell
        Image.open(file).rotate(90).save(file)
    pd.read_csv(later).drop(columns="patient").to_csv(later, index=False)
    assert run("evaluate", fitted, later) == 0
    assert "the adapter was fitted with groups, but these data have none" in capsys.readouterr().err


def test_patients_are_known_again_whatever_their_ids_begin_with(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spreadsheet would run -x9Q as a formula: the file has an apostrophe before it."""
    rows = pd.read_csv(table)
    rows["patient"] = [f"-{name}" for name in rows.patient]
    odd = table.parent / "odd.csv"
    rows.to_csv(odd, index=False)
    out = tmp_path / "o"
    assert run("fit", odd, "--out", out, "--shots", 2, "--method", "prototype") == 0
    capsys.readouterr()
    support = pd.read_csv(out / "support.csv")
    assert support.group.str.startswith("'-").all()
    support.assign(image="gone.png", sha256="").to_csv(out / "support.csv", index=False)
    rows[rows.patient.isin(support.group.str[1:])].to_csv(odd, index=False)
    refuse(capsys, ["evaluate", str(out), str(odd)], "no image is left")
    odd.unlink()


def test_evaluate_leaves_out_copies_of_other_names_of_what_was_learnt_from(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copies, list_file = tmp_path / "o", tmp_path / "copies", tmp_path / "list.txt"
    list_file.write_text("a0.png 0\na1.png 0\nb0.png 1\nb1.png 1\n")
    assert run("fit", small, "--out", out, "--method", "prototype", "--episode", list_file) == 0
    support = pd.read_csv(out / "support.csv")
    for name, found in zip(support.image, support.sha256, strict=True):
        assert found == hashlib.sha256((small.parent / name).read_bytes()).hexdigest()
    for label in "ab":
        (copies / label).mkdir(parents=True)
        for i in (1, 2):
            (small.parent / f"{label}{i}.png").rename(copies / label / f"scan-{i + 5}.png")
    capsys.readouterr()
    assert run("evaluate", out, copies, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["accuracy"]["n"] == 2
    assert "2 of 4 images are left out: they were used for training" in printed.err
    support.drop(columns="sha256").to_csv(out / "support.csv", index=False)
    assert run("evaluate", out, copies, "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["n"] == 4


def test_what_is_there_is_not_overwritten(
    fitted: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (fitted / "adapter.json").read_bytes()
    refuse(capsys, ["fit", str(table), "--out", str(fitted)], "exists already")
    assert (fitted / "adapter.json").read_bytes() == before


def test_a_full_disk_is_said_and_leaves_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    refuse(capsys, ["fit", str(table), "--out", str(tmp_path / "o"), "--shots", "1",
                    "--epochs", "1", "--method", "linear"],
           "safetensors: .*No space left on device")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_stopped_it_says_how_to_go_on_and_does(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medept.training.checkpoint import Checkpoint

    arguments = ("fit", table, "--out", tmp_path / "o", "--shots", 1, "--epochs", 6,
                 "--method", "linear", "--calibrate", "none", "--device", "cpu")  # fmt: skip
    save, saved = Checkpoint.save, []

    def stop(self: Checkpoint, *state: object) -> None:
        save(self, *state)  # type: ignore[arg-type]
        saved.append(state)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", stop)
    assert run(*arguments) not in (0, 2)
    assert "Give the same command again to go on" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert run(*arguments) == 0
    assert "going on after epoch 5 of 6" in capsys.readouterr().err
    assert len(saved) == 3  # the first three epochs are of the head alone
    assert len(pd.read_csv(tmp_path / "o" / "history.csv")) == 6


def test_no_image_to_test_on_is_said_before_training(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(capsys, ["fit", str(table), "--out", str(tmp_path / "o"), "--method", "linear",
                    "--lr", "1e5", "--set-recipe", "optimizer=sgd"],
           "no test images, and so no metrics: give --shots K.* training diverged")  # fmt: skip


@pytest.mark.slow
def test_killed_halfway_it_leaves_nothing_half_written_and_goes_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checkpoint = tmp_path / "o", tmp_path / ".o.checkpoint.safetensors"
    arguments = ["fit", str(table), "--out", str(out), "--shots", "2", "--epochs", "10",
                 "--calibrate", "none", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "medept", *arguments],
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while not checkpoint.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    assert run(*arguments) == 0
    assert re.search(r"going on after epoch \d+ of 10", capsys.readouterr().err)
    assert [p.name for p in tmp_path.iterdir()] == ["o"]
    assert pd.read_csv(out / "history.csv").epoch.tolist() == [*range(1, 11)]


VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "--help") == 0
    printed = capsys.readouterr().out
    assert re.search(rf"Usage: .*medept {verb} ", printed), "whatever runs it"
    assert "--json" in printed


def test_every_verb_prints_one_json_object(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = next(table.parent.glob("*.png"))
    out = tmp_path / "out"
    calls = {
        "predict": (fitted, image, "--out", tmp_path / "p.csv"),
        "embed": (image, "--out", tmp_path / "e.npy"),
        "evaluate": (fitted, table), "info": (fitted,), "check": (table, "--out", out),
        "phantoms": ("endo", "--patients", 4, "--out", tmp_path / "drawn"),
        "shrink": (table, "--pixels", 32, "--out", tmp_path / "small"),
        "episodes": (table, "--shots", 1, "--episodes", 1, "--out", tmp_path / "lists"),
        "report": (shutil.copytree(fitted, tmp_path / "copy"), table),
        "analyse": ("embedded", table, "--out", tmp_path / "look"),
        "fit": (table, "--shots", 2, "--method", "knn", "--out", tmp_path / "fit"),
        "datasets": (), "methods": (), "encoders": (), "bench": ("--list",),
        "demo": ("--out", tmp_path / "demo"),
    }  # fmt: skip
    runs = [{"method": m, "shots": 1, "seed": s, "balanced_accuracy": 0.5, "auroc": 0.5}
            for m in ("linear", "ept") for s in (0, 1)]  # fmt: skip
    story = SimpleNamespace(runs=pd.DataFrame(runs))
    monkeypatch.setattr("medept.workflows.demo.run_demo", lambda *_: story)
    assert {*calls} == {*VERBS} - {"tiles"}, "which needs a slide, and is called there"
    for verb, arguments in calls.items():
        assert run(verb, *arguments, "--json") in (0, 1 if verb == "check" else 0), verb
        assert isinstance(json.loads(capsys.readouterr().out), dict | list), verb
    assert run("demo", "--out", tmp_path / "demo") == 0
    assert "balanced accuracy" in capsys.readouterr().out


def test_nothing_is_sent_anywhere(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    out = tmp_path / "fit"
    assert run("fit", table, "--out", out, "--shots", 2, "--epochs", 1) == 0
    assert run("predict", out, table, "--out", tmp_path / "p.csv") == 0


def test_importing_medept_loads_nothing_heavy() -> None:
    code = (
        "import sys, medept, medept.cli;"
        "print([m for m in ('torch', 'timm', 'sklearn', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_episodes_are_written_for_others_and_fit_uses_them(tmp_path: Path) -> None:
    run, app = CliRunner().invoke, cli.app
    tiles = tmp_path / "tiles"
    run(app, ["phantoms", "colon", "--out", str(tiles), "--patients", "8"])
    table, out = str(tiles / "labels.csv"), tmp_path / "lists"
    options = ["--shots", "1", "--shots", "20%", "--episodes", "2", "--json"]
    done = run(app, ["episodes", table, "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    lists = json.loads(done.stdout)["lists"]
    assert set(lists) == {f"{s}_train_exp{n}.txt" for s in ("1-shot", "20-percent") for n in (1, 2)}
    chosen = out / "1-shot_train_exp2.txt"
    fit = ["fit", table, "--method", "prototype", "--out", str(tmp_path / "fit")]
    done = run(app, [*fit, "--episode", str(chosen)])
    assert done.exit_code == 0, done.output
    support = pd.read_csv(tmp_path / "fit" / "support.csv")["image"].tolist()
    test_list = str(chosen).replace("_train_", "_test_")
    done = run(app, [*fit[:-1], str(tmp_path / "wrong"), "--episode", test_list])
    assert f"a list of test images; give the support set, {chosen}" in str(done.exception)
    assert support == [line.rsplit(" ", 1)[0] for line in chosen.read_text().splitlines()]
    again = run(app, ["fit", table, "--out", str(tmp_path / "other"), "--episode", "exp9"])
    assert "medept episodes" in str(again.exception)


def test_progress_is_a_line_at_times_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress_bars() as report:
        for done in range(4):
            report(f"training (loss {done})", done, 4000)
            time.sleep(0.02)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training")]
    assert len(lines) == 4
    assert re.fullmatch(r"training \(loss 3\): 3 of 4,000, about \d+ (s|min) left", lines[-1])


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


def test_what_is_fitted_to_small_copies_is_not_evaluated_on_their_originals(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("shrink", table, "--out", tmp_path / "small", "--pixels", 32) == 0
    small, fit = tmp_path / "small" / "labels.csv", tmp_path / "fit"
    plain = pd.read_csv(small).drop(columns="group")
    plain.to_csv(small, index=False)
    assert run("fit", small, "--out", fit, "--shots", 2, "--method", "prototype") == 0
    pd.read_csv(table)[["image", "label"]].to_csv(table.parent / "plain.csv", index=False)
    capsys.readouterr()
    for data in (table.parent / "plain.csv", small):
        assert run("evaluate", fit, data) == 0
        assert "4 of 24 images are left out" in capsys.readouterr().err


def test_a_support_set_that_was_cut_is_refused(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (copied / "support.csv").read_text().splitlines(keepends=True)
    (copied / "support.csv").write_text("".join(rows[:-1]))
    assert run("evaluate", copied, table) == 2
    assert "support.csv: damaged" in capsys.readouterr().err


def test_characters_that_the_terminal_lacks_are_no_error(fitted: Path, table: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medept", "evaluate", str(fitted), str(table)],
        env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"accuracy" in done.stdout


def test_a_folder_that_another_process_writes_is_left_to_it(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / ".partial-out"
    others.mkdir()
    (others / "adapter.json").write_text("half")
    fit = ["fit", table, "--out", tmp_path / "out", "--shots", 2, "--method", "prototype"]
    (others / ".writer").write_text(str(os.getppid()))
    assert run(*fit) == 2
    assert "is being written by another medept" in capsys.readouterr().err
    assert (others / "adapter.json").read_text() == "half"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (others / ".writer").write_text(str(dead.pid))
    assert run(*fit) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert not (tmp_path / "out" / ".writer").exists()
