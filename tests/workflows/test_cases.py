"""From a table of images with cases to a fit, its report, an evaluation and predictions."""

from __future__ import annotations

import json
import re
from collections import Counter
from copy import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bags import make_bags
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medept import FewShotClassifier, InputError
from medept.data import images
from medept.data.dataset import read_dataset
from medept.data.find_images import find_images
from medept.fits.folder import read_fit
from medept.workflows.evaluate import evaluate_unseen
from medept.workflows.fit import fit
from medept.workflows.predict import predict

CASES = 14


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cases.csv``: images of 14 cases of 7 patients, with a column that is the same in a case."""
    folder = tmp_path_factory.mktemp("cases")
    images, ids, labels, patients = make_bags(CASES)
    rows = []
    for i, (image, case) in enumerate(zip(images, ids, strict=True)):
        number = int(case.split("-")[1])
        file = Path(case, f"{i}.png")
        (folder / file).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / file)
        rows.append((file.as_posix(), case, labels[number], patients[number], f"site {number}", i))
    columns = ["image", "case", "label", "patient", "site", "number"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def fitted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FewShotClassifier]:
    out = tmp_path_factory.mktemp("fits") / "fit"
    classifier = FewShotClassifier(
        readout="pooled", symmetry="flip", pool="max", device="cpu", precision="float32"
    )
    fit(read_dataset(table, case_column="case"), out, classifier, shots=3)
    return out, classifier


def test_a_shot_is_a_case_and_patients_stay_on_one_side(table: Path, fitted) -> None:
    support = pd.read_csv(fitted[0] / "support.csv")
    tested = pd.read_csv(fitted[0] / "predictions.csv")
    each = support.drop_duplicates("case")
    assert each["label"].value_counts().to_dict() == {"ill": 3, "well": 3}
    assert not set(support["group"]) & set(tested["group"])
    whole = pd.read_csv(table).groupby("case").size()
    assert support.groupby("case").size().to_dict() == whole[each["case"]].to_dict()
    assert (
        dict(zip(tested["case"], tested["images"], strict=True)) == whole[tested["case"]].to_dict()
    )


def test_metrics_of_cases_are_scikit_learns_on_predictions(fitted) -> None:
    out, _ = fitted
    metrics = json.loads((out / "metrics.json").read_text())
    tested = pd.read_csv(out / "predictions.csv")
    ill = tested["label"] == "ill"
    expected = balanced_accuracy_score(tested["label"], tested["predicted"])
    assert metrics["balanced_accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
    assert metrics["auroc"]["value"] == pytest.approx(roc_auc_score(ill, tested["p_ill"]), abs=1e-6)
    assert metrics["accuracy"]["n"] == len(tested)


def test_the_report_speaks_of_cases_and_shows_the_images_that_decided(fitted) -> None:
    out, _ = fitted
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("6 labelled cases", "<h2>Test cases</h2>", "pooling", "images.csv"):
        assert text in page
    read = read_fit(out)
    assert read.images is not None
    scores = read.images.assign(row=range(len(read.images)))
    for case, rows in scores.groupby("case"):
        assert rows["weight"].sum() == pytest.approx(1, abs=1e-4), case
    assert f"alone {read.images['p_ill'].max():.2f}" in page


def test_evaluating_leaves_support_cases_out_under_other_names_too(table: Path, fitted) -> None:
    out, classifier = fitted
    data = read_dataset(table, case_column="case")
    found = evaluate_unseen(classifier, data, out, out.with_name("again"))
    metrics = json.loads((out / "metrics.json").read_text())
    assert found.to_dict()["nll"]["value"] == pytest.approx(metrics["nll"]["value"], rel=1e-4)
    renamed = pd.read_csv(table).assign(case=lambda t: t["case"] + " again").drop(columns="patient")
    renamed.to_csv(table.with_name("renamed.csv"), index=False)
    data = read_dataset(table.with_name("renamed.csv"), case_column="case", group_column="case")
    assert evaluate_unseen(classifier, data, out).metrics["accuracy"].n == CASES - 6


def test_predictions_have_a_row_a_case_and_carry_columns_through(table: Path, fitted) -> None:
    out, classifier = fitted
    found = find_images([table], case_column="case")
    file = out.with_name("p.csv")
    predict(classifier, found, file, per_image=True)
    whole = pd.read_csv(file)
    assert list(whole.columns) == [
        "case", "images", "label", "patient", "site", "predicted", "p_ill", "p_well", "set",
        "unfamiliar",
    ]  # fmt: skip
    assert whole["site"].tolist() == [f"site {i}" for i in range(CASES)]
    tested = pd.read_csv(out / "predictions.csv").set_index("case")
    again = whole.set_index("case").loc[tested.index]
    np.testing.assert_allclose(again["p_ill"], tested["p_ill"], rtol=1e-4, atol=1e-6)
    images = pd.read_csv(out.with_name("p-images.csv"))
    assert images["image"].tolist() == pd.read_csv(table)["image"].tolist()  # as they were written


def test_a_folder_a_case_is_the_same(table: Path, fitted) -> None:
    out, classifier = fitted
    found = find_images([table.parent], case="folder")
    predict(classifier, found, out.with_name("folders.csv"))
    whole = pd.read_csv(out.with_name("folders.csv"))
    assert whole["case"].map(lambda path: Path(path).name).tolist() == sorted(
        f"case-{i}" for i in range(CASES)
    )
    by_folder = read_dataset(table, case="folder")
    by_column = read_dataset(table, case_column="case")
    assert by_folder.names == by_column.names
    np.testing.assert_array_equal(by_folder.targets, by_column.targets)


def test_an_unreadable_image_of_a_case_may_be_left_out(table: Path, fitted, tmp_path: Path) -> None:
    _, classifier = fitted
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"damaged")
    Image.new("RGB", (40, 40)).save(tmp_path / "a" / "2.png")
    found = find_images([tmp_path], case="folder")
    with pytest.raises(InputError, match=r"1\.png"):
        predict(classifier, found, tmp_path / "p.csv")
    assert predict(classifier, found, tmp_path / "p.csv", skip_unreadable=True).unreadable == 2
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["images"].tolist() == [1, 0]
    assert table["p_ill"].isna().tolist() == [False, True]
    assert re.findall(r"\w/\d\.png: not an image", "".join(table["unreadable"])) == [
        "a/1.png: not an image", "b/3.png: not an image",
    ]  # fmt: skip


@pytest.mark.parametrize("pool", ["max", "none"])
def test_skipping_reads_every_image_once_and_predicts_the_others_as_by_themselves(
    table: Path, fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    classifier = copy(fitted[1]).set_params(prevalence="estimate")
    column = "case" if pool == "max" else None
    rows = pd.read_csv(table)
    good, bad = rows.copy(), [0, 3, len(rows) - 1]
    for row in bad:
        rows.loc[row, "image"] = f"{table.parent.name}-{row}.png"
        (table.parent / rows.loc[row, "image"]).write_bytes(b"damaged")
    rows.to_csv(table.with_name("damaged.csv"), index=False)
    good.drop(bad).to_csv(table.with_name("good.csv"), index=False)
    damaged = find_images([table.with_name("damaged.csv")], case_column=column)
    read = Counter()

    def counted(path: Path, own=images._from_path) -> Image.Image:
        read[path] += 1
        return own(path)

    monkeypatch.setattr(images, "_from_path", counted)
    predict(classifier, damaged, tmp_path / "p.csv", skip_unreadable=True)
    assert set(read.values()) == {1}
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["unreadable"].str.count(r"\.png: not an image").sum() == len(bad)
    alone = find_images([table.with_name("good.csv")], case_column=column)
    predict(classifier, alone, tmp_path / "q.csv")
    expected = pd.read_csv(tmp_path / "q.csv")
    found = found[found["p_ill"].notna()].drop(columns="unreadable").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
    assert len(read) == len(rows)
