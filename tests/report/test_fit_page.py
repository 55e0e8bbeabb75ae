"""The report of a fit: its numbers are those of the files, it is one file, and it can be read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Page, run
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    recall_score,
    roc_auc_score,
)

from medept import FewShotClassifier
from medept.evaluation.conformal import check_coverage
from medept.fits.folder import read_fit
from medept.phantoms import make_phantoms, write_phantoms
from medept.report.fit_page import METRICS
from medept.workflows.fit import fit


@pytest.fixture(scope="module", params=["colon", "endo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of two classes, and one of several labels."""
    place = tmp_path_factory.mktemp(request.param)
    data = make_phantoms(request.param, patients=24, images_per_patient=2, size=48)
    write_phantoms(data, place / "data")
    fit(data, place / "fit", FewShotClassifier(method="ept", epochs=2), shots=2)
    return place / "fit"


def test_metrics_are_those_of_the_file_and_of_scikit_learn(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    found = read_fit(folder)
    for name, metric in metrics.items():
        if name not in METRICS:  # those have parts of the page of their own
            continue
        value, interval, n, _ = page.row(METRICS[name][0], 5)
        assert value == f"{metric['value']:.3f}"
        assert interval == f"{metric['low']:.3f} to {metric['high']:.3f}"
        assert n == str(metric["n"])
    if found.info.task == "multiclass":
        told = found.probabilities.argmax(axis=1)
        expected = {
            "balanced_accuracy": balanced_accuracy_score(found.targets, told),
            "auroc": roc_auc_score(found.targets, found.probabilities[:, 1]),
        }
    else:
        scores = [
            roc_auc_score(truth, p)
            for truth, p in zip(found.targets.T, found.probabilities.T, strict=True)
            if 0 < truth.sum() < len(truth)
        ]
        expected = {"auroc": float(np.mean(scores))}
    for name, value in expected.items():
        assert metrics[name]["value"] == pytest.approx(value, abs=1e-5), name


def test_calibration_can_be_computed_again_from_the_predictions(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "predictions.csv", keep_default_na=False)
    classes = read_fit(folder).info.classes
    p = table[[f"p_{name}" for name in classes]].to_numpy()
    truth = np.array([[name in label.split("|") for name in classes] for label in table.label])
    each = [brier_score_loss(t, q) for t, q in zip(truth.T, p.T, strict=True)]
    if read_fit(folder).info.task == "multiclass":
        brier, nll = sum(each), log_loss(table.label, p, labels=classes)
        confidence, right = p.max(axis=1), truth[np.arange(len(p)), p.argmax(axis=1)]
    else:
        brier, nll = np.mean(each), log_loss(truth.ravel(), p.ravel())
        confidence, right = p.ravel(), truth.ravel()
    assert metrics["brier"]["value"] == pytest.approx(brier, abs=1e-5)
    assert metrics["nll"]["value"] == pytest.approx(nll, abs=1e-5)
    found = metrics["calibration"]
    assert found["brier"]["score"] == pytest.approx(brier, abs=1e-5)
    assert metrics["ece"]["value"] == pytest.approx(ece(confidence, right), abs=1e-4)
    by_class = [ece(q, t) for q, t in zip(p.T, truth.T, strict=True)]
    assert found["classwise"] == pytest.approx(np.mean(by_class), abs=1e-4)
    shown = {"equal-mass ECE": found["equal_mass"], "classwise ECE": found["classwise"]}
    parts = ("reliability", "resolution", "uncertainty")
    shown["ECE by chance"] = found["by_chance"]
    shown |= {f"Brier: {part}": found["brier"][part] for part in parts}
    for name, value in shown.items():
        assert page.row(name, 3)[0] == f"{value:.3f}"


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """By scikit-learn's bins, and their counts."""
    edges = np.linspace(0, 1, 16)
    frequency, mean = calibration_curve(right, confidence, n_bins=15)
    count = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=15)
    return float((np.abs(frequency - mean) * count[count > 0]).sum() / count.sum())


def test_coverage_is_told_class_by_class(folder: Path) -> None:
    """The sets in predictions.csv, counted."""
    told = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    page, info = Page((folder / "report.html").read_text()), read_fit(folder).info
    assert info.prediction_sets is not None
    for name in info.classes:
        truth = told.label.str.split("|").map(lambda names, c=name: c in names)
        inside = told.set.str.split("|").map(lambda names, c=name: {c, f"{c}?"} & {*names} != set())
        cells = page.last(name)
        assert cells[0] == str(truth.sum())
        assert cells[1] == f"{100 * inside[truth].mean():.0f} %"
        if info.task == "multilabel":
            certain = told.set.str.split("|").map(lambda names, c=name: c in names)
            assert cells[2] == f"{100 * (1 - certain[~truth].mean()):.0f} %"


def test_without_sets_of_its_own_the_report_tries_some(tmp_path: Path) -> None:
    data = make_phantoms("colon", patients=24, images_per_patient=2, size=48)
    plain = FewShotClassifier(method="prototype", symmetry="none", calibrate="none")
    fit(data, tmp_path / "fit", plain, shots=2)
    found = read_fit(tmp_path / "fit")
    whole = check_coverage(found.probabilities, found.targets, found.groups)
    page = Page((tmp_path / "fit" / "report.html").read_text())
    assert whole is not None
    for name, held in zip(found.info.classes, whole.by_class, strict=True):
        assert page.last(name)[1] == f"{100 * held:.0f} %"


def test_text_has_contrast_and_what_scrolls_has_a_key(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    light, dark = re.findall(r":root \{([^}]*)\}", text)
    for style in (light, dark):
        colour = dict(re.findall(r"--(\w+): #([0-9a-f]+)", style))
        pairs = [(ink, back) for ink in ("ink", "soft", "bad", "warn") for back in ("back", "card")]
        for ink, back in [*pairs, ("bad", "badback"), ("good", "goodback")]:
            assert contrast(colour[ink], colour[back]) >= 4.5, (ink, back)
    for region in re.findall(r'<div class="(?:card wide[^"]*|scroll)"[^>]*>', text):
        assert 'tabindex="0"' in region
        assert "aria-label" in region


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2: from 1 to 21."""
    light = []
    for text in (one, other):
        full = "".join(c * 2 for c in text) if len(text) == 3 else text
        rgb = np.array([int(full[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ (0.2126, 0.7152, 0.0722)))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_classes_and_confusion_are_those_of_scikit_learn(folder: Path) -> None:
    page, table = (
        Page((folder / "report.html").read_text()),
        pd.read_csv(folder / "predictions.csv"),
    )
    found = read_fit(folder)
    if found.info.task == "multiclass":
        counts = confusion_matrix(table.label, table.predicted, labels=found.info.classes)
        for name, row in zip(found.info.classes, counts, strict=True):
            cells = page.row(name, len(found.info.classes) + 2)
            assert cells == [*map(str, row), str(row.sum())]
        truth, told = np.eye(2)[found.targets], np.eye(2)[found.probabilities.argmax(axis=1)]
    else:
        truth, told = found.targets, found.probabilities > 0.5
    for name, true, yes in zip(found.info.classes, truth.T, told.T, strict=True):
        learnt, n, *rates = page.row(name, 6)
        sensitivity, specificity, _ = (rate.split("(")[0] for rate in rates)
        assert int(n) == true.sum()
        support = pd.read_csv(folder / "support.csv", keep_default_na=False).label
        assert int(learnt) == sum(name in label.split("|") for label in support)
        if true.any():
            assert sensitivity == f"{recall_score(true, yes):.3f}"
        if not true.all():
            assert specificity == f"{recall_score(1 - true, 1 - yes):.3f}"


def test_it_is_one_light_file_that_loads_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert len(text) < 5_000_000
    assert page.loaded
    assert all(uri.startswith("data:image/") for uri in page.loaded)
    assert all(page.alts), "every picture says what it shows"
    assert not page.scripts
    assert "Not a medical device" in text
    assert "needed to trust it" in text


def test_it_can_be_made_again_with_and_without_the_images(folder: Path) -> None:
    whole = (folder / "report.html").read_text()
    data = str(folder.parent / "data" / "labels.csv")
    assert run("report", str(folder)) == 0
    bare = (folder / "report.html").read_text()
    assert bare.count("image/jpeg") == 0
    assert "medept report DIR DATA" in bare
    assert run("report", str(folder), data) == 0
    assert Page((folder / "report.html").read_text()).rows == Page(whole).rows
    assert (folder / "report.html").read_text().count("image/jpeg") > 10


def test_names_cannot_write_into_the_page(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "fit"
    shutil.copytree(folder, copy)
    for name in ("predictions.csv", "support.csv"):
        table = pd.read_csv(copy / name, dtype=str, keep_default_na=False)
        table["image"] = "<script>alert(1)</script>"
        table.to_csv(copy / name, index=False)
    assert run("report", str(copy)) == 0
    text = (copy / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.json", "{"), ("metrics.json", "{}"), ("check.json", '{"a": 1}'),
     ("adapter.json", "{"), ("predictions.csv", "image\n"), ("support.csv", "image\n"),
     ("history.csv", "image\n")],
)  # fmt: skip
def test_a_damaged_folder_is_told(
    tmp_path: Path, folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "fit"
    shutil.copytree(folder, copy)
    (copy / name).write_text(text)
    before = (copy / "report.html").read_text()
    assert run("report", str(copy)) == 2
    error = re.sub(r"\s+", "", capsys.readouterr().err)
    assert name in error or "support.csv" in error
    assert (copy / "report.html").read_text() == before


def test_the_learning_curve_is_shown(folder: Path) -> None:
    loss = pd.read_csv(folder / "history.csv").loss
    shown = [alt for alt in Page((folder / "report.html").read_text()).alts if alt]
    told = f"2 epochs: from {loss.iloc[0]:.3f} to {loss.iloc[-1]:.3f}"
    assert any(told in alt for alt in shown)


def test_without_a_test_set_it_says_so(tmp_path: Path) -> None:
    data = make_phantoms("colon", patients=6, images_per_patient=1, size=48)
    fit(data, tmp_path / "fit", FewShotClassifier(method="linear", epochs=1), shots=None)
    text = (tmp_path / "fit" / "report.html").read_text()
    assert "it is not known how well this works" in text
    rows = pd.read_csv(tmp_path / "fit" / "held-out.csv")
    told = balanced_accuracy_score(rows.label, rows.predicted)
    assert f"Balanced accuracy {told:.3f} by cross-validation" in text
    assert "as common as among the training images (normal 50 %, tumour 50 %)" in text
    assert "images with known labels, of patients it was not trained on" in text


def test_the_top_says_what_to_beware_of(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "fit"
    shutil.copytree(folder, copy)
    if read_fit(copy).multilabel:
        return
    (copy / "held-out.csv").unlink(missing_ok=True)
    table = pd.read_csv(copy / "predictions.csv")
    table["p_normal"], table["p_tumour"] = 0.9, 0.1
    table = table[(table.label == "normal") | (table.label == "tumour").cumsum().le(3)]
    table.to_csv(copy / "predictions.csv", index=False)
    support = pd.read_csv(copy / "support.csv")
    assert run("report", str(copy)) == 0
    text = (copy / "report.html").read_text()
    assert "It never predicted tumour, though the test set has such cases" in text
    assert "of tumour were there to test on" in text
    assert "but on" not in text
    keep = support[(support.label == "normal")].index
    support.loc[keep[1:], "label"] = "tumour"
    support.to_csv(copy / "support.csv", index=False)
    assert run("report", str(copy)) == 0
    count = (support.label == "tumour").sum()
    assert count >= 4
    text = (copy / "report.html").read_text()
    assert f"trained on {count} images of tumour, but on 1 of normal" in text
