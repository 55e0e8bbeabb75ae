"""`medept fit`: what it writes, what it refuses, and how it goes on after a stop."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from helpers import refuse, run
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, roc_auc_score

from medept.phantoms import make_phantoms, write_phantoms


def test_fit_writes_all_its_files(fitted: Path) -> None:
    assert sorted(p.name for p in fitted.iterdir()) == [
        "README.md", "adapter.json", "adapter.safetensors", "check.json", "distribution.csv",
        "figure2.png", "gates-by-head.png", "gates-by-layer.png", "gates.csv", "gates.png",
        "held-out.csv", "history.csv", "metrics.json", "predictions.csv", "report.html",
        "support.csv",
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


def test_json_is_one_object_and_nothing_else(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("fit", table, "--out", tmp_path / "o", "--shots", 1, "--method", "linear",
               "--epochs", 1, "--json")  # fmt: skip
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["trainable_parameters"] == 2 * 192 + 2
    assert printed["support"] + printed["test"] == 24


def test_multi_label_from_table_to_predictions(tmp_path: Path) -> None:
    data = make_phantoms("endo", patients=10, images_per_patient=2, size=64)
    table = write_phantoms(data, tmp_path / "endo")
    out = tmp_path / "fit"
    assert run("fit", table, "--out", out, "--shots", 1, "--method", "ept", "--epochs", 1) == 0
    rows = pd.read_csv(table, keep_default_na=False)
    alone = table.parent / "alone.csv"
    rows[~rows.label.str.contains("|", regex=False)].to_csv(alone, index=False)
    assert run("evaluate", out, alone) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"map", "auroc", "f1", "ece", "brier"} <= set(metrics)


def test_prompts_with_keys_from_table_to_predictions(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit"
    chosen = ["--method", "ept", "--set", "way=keys", "--set", "length=2", "--set", "layers=7-8"]
    assert run("fit", table, "--out", out, "--shots", 1, "--epochs", 2, *chosen) == 0
    kept = load_file(out / "adapter.safetensors")
    shapes = {name: tuple(t.shape) for name, t in kept.items() if name.startswith("prompt")}
    assert shapes == {"prompt.layer.6": (3, 2, 64), "prompt.layer.7": (3, 2, 64)}
    assert run("predict", out, table.parent, "--out", tmp_path / "p.csv") == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.csv"], "nowhere.csv: no such table or folder"),
        (["fit", "TABLE", "--shots", "0"], "--shots 0: give a whole number"),
        (["fit", "TABLE", "--shots", "many"], "--shots many"),
        (["fit", "TABLE", "--method", "magic"], "use one of"),
        (["fit", "TABLE", "--recipe", "magic"], "medept, paper"),
        (["fit", "TABLE", "--encoder", "magic_net"], "medept encoders"),
        (["fit", "TABLE", "--method", "ept", "--epochs", "0"], "epochs"),
        (["fit", "TABLE", "--device", "cuda:9"], "not available|device"),
        (["fit", "TABLE", "--precision", "float7"], "float32"),
        (["fit", "TABLE", "--label-column", "colour"], "no column 'colour'"),
        (["fit", "TABLE", "--method", "ept", "--set", "length"], "NAME=VALUE"),
        (["fit", "TABLE", "--method", "ept", "--set", "size=3"], "settings are"),
        (["fit", "TABLE", "--method", "ept", "--prompt-length", "0"], "at least 1"),
        (["fit", "TABLE", "--method", "ept", "--set", "layers=99"], "layers 1 to"),
        (["fit", "TABLE", "--method", "ept", "--set", "=3"], "NAME=VALUE"),
        (["fit", "TABLE", "--set-recipe", "magic=3"], "magic: not known .*optimizer"),
        (["fit", "TABLE", "--method", "linear", "--prompt-length", "9"], "has no setting length"),
        (["fit", "TABLE", "--shots", "-1"], "--shots -1: give a whole number"),
        (["fit", "TABLE", "--shots", "101%"], "--shots 101%: give a whole number"),
        (["fit", "TABLE", "--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["fit", "TABLE", "--seed", str(10**20)], "give a whole number from 0"),
        (["fit", "TABLE", "--tune", "-1"], "--tune -1: give the number of trials"),
        (["fit", "TABLE", "--method", "ept", "--lr", "0"], "lr: .*greater than 0"),
        (["fit", "TABLE", "--method", "ept", "--lr", "inf"], "lr: .*less than"),
        (
            ["fit", "TABLE", "--method", "linear", "--encoder-lr", "1"],
            "linear has no --encoder-lr: it learns by --lr",
        ),
        (["fit", "TABLE", "--method", "probe", "--lr", "1"], "probe has no --lr.*no rate at all"),
        (["fit", "TABLE", "--method", "mlp-2", "--set", "k=4"], "its name says k=2"),
        (
            ["fit", "TABLE", "--method", "ept", "--set", "length=3", "--set", "length=9"],
            "give one of them",
        ),
        (["fit", "TABLE", "--episode", "exp1"], "exp1: no such file"),
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
            "safetensors files only",
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
        (["fit", "medmnist-foo:FIT"], "medept datasets"),
    ],
)
def test_refusals_of_fit(refuses: Callable[..., None], arguments: list[str], message: str) -> None:
    refuses(arguments, message)


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


def test_a_damaged_image_is_named_and_nothing_is_written(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(make_phantoms("colon", patients=4, size=64), tmp_path / "d")
    victim = tmp_path / "d" / "patient-001_0.png"
    victim.write_bytes(victim.read_bytes()[:300])
    refuse(capsys, ["fit", str(tmp_path / "d" / "labels.csv"), "--out", str(tmp_path / "o"),
                    "--shots", "1"], "patient-001_0.png: damaged")  # fmt: skip
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


def test_training_that_diverges_is_said(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(capsys, ["fit", str(small), "--out", str(tmp_path / "o"), "--shots", "2", "--method",
                    "linear", "--lr", "1e6", "--epochs", "30"], "diverged: .*--lr")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_no_image_to_test_on_is_said_before_training(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(capsys, ["fit", str(table), "--out", str(tmp_path / "o"), "--method", "linear",
                    "--lr", "1e5", "--set-recipe", "optimizer=sgd"],
           "no test images, and so no metrics: give --shots K.* training diverged")  # fmt: skip


def test_what_is_there_is_not_overwritten(
    fitted: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (fitted / "adapter.json").read_bytes()
    refuse(capsys, ["fit", str(table), "--out", str(fitted)], "exists already")
    assert (fitted / "adapter.json").read_bytes() == before


def test_the_working_folder_is_no_new_folder(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(capsys, ["fit", str(table), "--shots", "1", "--out", "."], "name a new folder")


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
    assert "resuming after epoch 5 of 6" in capsys.readouterr().err
    assert len(saved) == 3  # the first three epochs are of the head alone
    assert len(pd.read_csv(tmp_path / "o" / "history.csv")) == 6


@pytest.mark.slow
def test_killed_halfway_it_leaves_nothing_half_written_and_goes_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checkpoint = tmp_path / "o", tmp_path / ".o.checkpoint.safetensors"
    arguments = ["fit", str(table), "--out", str(out), "--shots", "2", "--epochs", "10",
                 "--method", "ept", "--calibrate", "none", "--device", "cpu"]  # fmt: skip
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
    assert re.search(r"resuming after epoch \d+ of 10", capsys.readouterr().err)
    assert [p.name for p in tmp_path.iterdir()] == ["o"]
    assert pd.read_csv(out / "history.csv").epoch.tolist() == [*range(1, 11)]


def test_the_task_and_the_classes_can_be_given(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "prototype", "--shots", "2", "--device", "cpu", "--json"]
    small.write_text(small.read_text().replace(",b", ',"b, c"'))
    command = ["fit", small, "--out", tmp_path / "a", *options]
    assert run(*command, "--task", "multiclass", "--classes", "b, a") == 2
    assert "unknown label 'b, c'" in capsys.readouterr().err
    assert run(*command, "--task", "multilabel", "--classes", "c,b,a") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["c", "b", "a"]
    assert run("check", small, "--task", "multilabel", "--json", "--device", "cpu") in (0, 1)
