"""`medept evaluate`: images that were learnt from are left out, damaged adapters refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import refuse, run
from PIL import Image
from safetensors.torch import save


def test_evaluate_on_its_own_test_rows_gives_its_own_metrics(
    fitted: Path, own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = set(pd.read_csv(fitted / "predictions.csv").image)
    rows = pd.read_csv(own_table)
    part = own_table.parent / "tested.csv"
    rows[rows.image.isin(tested)].to_csv(part, index=False)
    assert run("evaluate", fitted, part, "--json", "--precision", "float32") == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((fitted / "metrics.json").read_text())
    assert printed["auroc"]["value"] == pytest.approx(saved["auroc"]["value"], abs=1e-4)


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
    fitted: Path, own_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One-hot columns, as of ISIC 2018, of data to evaluate on."""
    rows, columns = pd.read_csv(own_table), ("--label-column", "normal,tumour")
    for name in ("normal", "tumour"):
        rows[name] = (rows.label == name).astype(int)
    flags = own_table.parent / "flags.csv"
    rows.drop(columns="label").to_csv(flags, index=False)
    found = []
    for data in ((own_table,), (flags, *columns)):
        assert run("evaluate", fitted, *data, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    rows.assign(normal=1).drop(columns="label").to_csv(flags, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(flags), *columns], "row 4: 2 of its classes are 1")


def test_evaluate_leaves_out_what_was_learnt_from(
    fitted: Path, own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("evaluate", fitted, own_table, "--json") == 0
    printed = capsys.readouterr()
    saved = json.loads((fitted / "metrics.json").read_text())
    assert json.loads(printed.out)["accuracy"]["n"] == saved["accuracy"]["n"] < 24
    assert "they, or others of their groups, were used for training" in printed.err
    learnt = own_table.parent / "learnt.csv"
    support = pd.read_csv(fitted / "support.csv")
    rows = pd.read_csv(own_table)
    rows[rows.image.isin(support.image)].to_csv(learnt, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(learnt)], "no image is left")
    rows.assign(split="train").to_csv(learnt, index=False)
    refuse(capsys, ["evaluate", str(fitted), str(learnt)], "no row of test")


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
    own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spreadsheet would run -x9Q as a formula: the file has an apostrophe before it."""
    rows = pd.read_csv(own_table)
    rows["patient"] = [f"-{name}" for name in rows.patient]
    odd = own_table.parent / "odd.csv"
    rows.to_csv(odd, index=False)
    out = tmp_path / "o"
    assert run("fit", odd, "--out", out, "--shots", 2, "--method", "prototype") == 0
    capsys.readouterr()
    support = pd.read_csv(out / "support.csv")
    assert support.group.str.startswith("'-").all()
    support.assign(image="gone.png", sha256="").to_csv(out / "support.csv", index=False)
    rows[rows.patient.isin(support.group.str[1:])].to_csv(odd, index=False)
    refuse(capsys, ["evaluate", str(out), str(odd)], "no image is left")


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


def test_names_of_images_it_was_fitted_to_are_told_where_the_files_differ(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(table.parent, tmp_path / "other")
    for file in other.glob("*.png"):
        Image.open(file).rotate(90).save(file)
    assert run("evaluate", fitted, other / table.name) == 0
    assert "but other contents: they are left out" in capsys.readouterr().err


def test_what_is_fitted_to_small_copies_is_not_evaluated_on_their_originals(
    own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("shrink", own_table, "--out", tmp_path / "small", "--pixels", 32) == 0
    small, fit = tmp_path / "small" / "labels.csv", tmp_path / "fit"
    plain = pd.read_csv(small).drop(columns="group")
    plain.to_csv(small, index=False)
    assert run("fit", small, "--out", fit, "--shots", 2, "--method", "prototype") == 0
    pd.read_csv(own_table)[["image", "label"]].to_csv(own_table.parent / "plain.csv", index=False)
    capsys.readouterr()
    for data in (own_table.parent / "plain.csv", small):
        assert run("evaluate", fit, data) == 0
        assert "4 of 24 images are left out" in capsys.readouterr().err


def test_evaluate_of_an_adapter_without_its_support_set(
    copied: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "support.csv").unlink()
    assert run("evaluate", copied, table) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    refuse(capsys, ["evaluate", str(copied), str(table), "--out", str(out)], "leave --out out")
    assert not out.exists()


def test_a_support_set_that_was_cut_is_refused(
    copied: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (copied / "support.csv").read_text().splitlines(keepends=True)
    (copied / "support.csv").write_text("".join(rows[:-1]))
    assert run("evaluate", copied, table) == 2
    assert "support.csv: damaged" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "FIT", "FIT/support.csv"], "images are missing"),
        (["evaluate", "FIT", "TABLE", "TABLE"], "one table or folder"),
        (["evaluate", "nowhere", "TABLE"], "no adapter here"),
    ],
)
def test_refusals_of_evaluate(
    refuses: Callable[..., None], arguments: list[str], message: str
) -> None:
    refuses(arguments, message)
