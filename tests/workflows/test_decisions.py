"""Operating points from the command line to the report: chosen once, the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Page, run
from sklearn.metrics import confusion_matrix, log_loss, precision_score, recall_score

from medept.phantoms import make_phantoms, write_phantoms


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_phantoms("colon", patients=20, images_per_patient=2, size=64, difficulty=0.5)
    return write_phantoms(data, tmp_path_factory.mktemp("colon") / "tiles")


@pytest.fixture(scope="module")
def folder(table: Path) -> Path:
    out = table.parent.parent / "fit"
    assert run("fit", table, "--out", out, "--shots", 4, "--method", "prototype",
               "--positive", "tumour", "--sensitivity", "0.9", "--tta", 1) == 0  # fmt: skip
    return out


def test_the_threshold_is_chosen_on_held_out_predictions(folder: Path) -> None:
    point = json.loads((folder / "adapter.json").read_text())["operating_points"][0]
    held_out = pd.read_csv(folder / "held-out.csv")
    assert len(held_out) == len(pd.read_csv(folder / "support.csv"))
    truth, told = held_out.label == "tumour", held_out.p_tumour >= point["threshold"]
    assert recall_score(truth, told) == pytest.approx(point["sensitivity"])
    assert point["sensitivity"] >= 0.9
    assert recall_score(~truth, ~told) == pytest.approx(point["specificity"])
    higher = np.sort(held_out.p_tumour[truth])
    assert recall_score(truth, held_out.p_tumour > higher[higher > point["threshold"]][0]) < 0.9


def test_predictions_metrics_and_report_decide_alike(folder: Path) -> None:
    point = json.loads((folder / "adapter.json").read_text())["operating_points"][0]
    told = pd.read_csv(folder / "predictions.csv")
    expected = np.where(told.p_tumour >= point["threshold"], "tumour", "not tumour")
    assert (told.decision == expected).all()
    first, *others = json.loads((folder / "metrics.json").read_text())["decisions"]
    counts = confusion_matrix(told.label == "tumour", told.decision == "tumour")
    assert counts.tolist() == [
        [first["true_negative"], first["false_positive"]],
        [first["false_negative"], first["true_positive"]],
    ]
    page = Page((folder / "report.html").read_text())
    assert page.row("with tumour", 3) == [str(counts[1, 1]), str(counts[1, 0])]
    assert page.row("without", 3) == [str(counts[0, 1]), str(counts[0, 0])]
    sensitivity = counts[1, 1] / counts[1].sum()
    assert page.row("sensitivity 0.9", 8)[1].startswith(f"{sensitivity:.3f}")
    assert [row["aim"][:16] for row in others] == [
        f"sensitivity {rate}" for rate in ("0.80", "0.90", "0.95", "0.99")
    ]
    assert f"it would find {100 * sensitivity:.0f} (" in (folder / "report.html").read_text()


def test_the_adapter_decides_on_new_images(folder: Path, table: Path, tmp_path: Path) -> None:
    assert run("predict", folder, table, "--out", tmp_path / "p.csv") == 0
    told = pd.read_csv(tmp_path / "p.csv")
    point = json.loads((folder / "adapter.json").read_text())["operating_points"][0]
    expected = np.where(told.p_tumour >= point["threshold"], "tumour", "not tumour")
    assert (told.decision == expected).all()
    assert run("evaluate", folder, table, "--out", tmp_path / "again") == 0
    ours = json.loads((tmp_path / "again" / "metrics.json").read_text())["decisions"]
    theirs = json.loads((folder / "metrics.json").read_text())["decisions"]
    for one, other in zip(ours, theirs, strict=True):
        assert one["true_positive"] == other["true_positive"]


def test_a_stated_prevalence_moves_probabilities_by_bayes(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fit"
    given = ("--shots", 4, "--method", "prototype", "--tta", 1)
    assert run("fit", table, "--out", out, *given, "--prevalence", "tumour=0.1") == 0
    adapter = json.loads((out / "adapter.json").read_text())
    support = pd.read_csv(out / "support.csv").label.value_counts(normalize=True)
    assert adapter["shares"] == pytest.approx([support["normal"], support["tumour"]])
    assert adapter["prevalence"] == {"tumour": 0.1}
    tables = {}
    share = support["tumour"]
    for name, options in {"kept": (), "even": ("--prevalence", f"tumour={share}"),
                          "estimate": ("--prevalence", "estimate")}.items():  # fmt: skip
        assert run("predict", out, table, "--out", tmp_path / f"{name}.csv", *options) == 0
        tables[name] = pd.read_csv(tmp_path / f"{name}.csv").p_tumour
    odds = {name: p / (1 - p) for name, p in tables.items()}
    assert np.allclose(odds["kept"], odds["even"] / 9 * (1 - share) / share, rtol=1e-4)
    assert "estimated from 40 cases: normal 0." in " ".join(capsys.readouterr().err.split())
    assert run("evaluate", out, table, "--prevalence", "sick=0.1") == 2
    assert "sick: not a class" in " ".join(capsys.readouterr().err.split())


def test_a_threshold_is_one_for_the_prevalence_of_its_fit(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "p.csv", "--prevalence", "tumour=0.1")
    assert run("predict", folder, table, *options) == 2
    assert "give --prevalence to the fit" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--positive", "sick", "--sensitivity", "0.9"), "sick: not a class"),
        (("--positive", "tumour", "--cost", "fn=1"), "write fn=X,fp=Y"),
        (("--positive", "tumour", "--sensitivity", "2"), "2.0: give a number"),
        (("--positive", "tumour"), "give one of"),
        (("--prevalence", "sick=0.1"), "sick: not a class"),
        (("--prevalence", "tumour=0.1,normal=0.5"), "sums to 0.6"),
        (("--prevalence", "tumour=x"), "write CLASS=P"),
    ],
)
def test_bad_aims_are_refused_before_training(
    table: Path, tmp_path: Path, options: tuple[str, ...], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run("fit", table, "--out", tmp_path / "x", "--shots", 2, "--method", "prototype",
               "--tta", 1, *options) == 2  # fmt: skip
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_depends_on_prevalence_is_told_at_the_stated_one(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number again from predictions.csv, with scikit-learn's weights."""
    out = tmp_path / "fit"
    given = ("--shots", 4, "--method", "prototype", "--tta", 1, "--positive", "tumour")
    assert run("fit", table, "--out", out, *given, "--threshold", 0.2,
               "--prevalence", "tumour=0.1") == 0  # fmt: skip
    assert "at stated prevalence" in capsys.readouterr().out
    told = pd.read_csv(out / "predictions.csv")
    metrics = json.loads((out / "metrics.json").read_text())
    ill = told.label == "tumour"
    weights = np.where(ill, 0.1 / ill.mean(), 0.9 / (1 - ill.mean()))
    at = metrics["at_prevalence"]
    assert at["prevalence"] == pytest.approx({"normal": 0.9, "tumour": 0.1})
    assert at["metrics"]["nll"]["value"] == pytest.approx(
        log_loss(ill, told.p_tumour, sample_weight=weights)
    )
    first = metrics["decisions"][0]
    positive = told.decision == "tumour"
    assert first["prevalence"] == pytest.approx(0.1)
    assert first["at_prevalence"]["ppv"]["value"] == pytest.approx(
        precision_score(ill, positive, sample_weight=weights)
    )
    assert first["at_prevalence"]["npv"]["value"] == pytest.approx(
        precision_score(~ill, ~positive, sample_weight=weights)
    )
    page = (out / "report.html").read_text()
    assert "normal 90 %, tumour 10 % is the case" in page
    assert f"PPV at the first threshold is {first['at_prevalence']['ppv']['value']:.3f}" in page


def test_the_prevalence_of_the_data(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(table)
    few = rows[(rows.label == "normal") | rows.image.str.contains("000|001")]
    unlike = table.with_name("unlike.csv")
    few.to_csv(unlike, index=False)
    out = tmp_path / "fit"
    given = ("--shots", 1, "--method", "prototype", "--tta", 1, "--calibrate", "none")
    assert run("fit", unlike, "--out", out, *given, "--prevalence", "data") == 0
    stated = json.loads((out / "adapter.json").read_text())["prevalence"]
    assert stated == pytest.approx((few.label.value_counts(normalize=True)).to_dict())
    capsys.readouterr()
    assert run("predict", out, table, "--out", tmp_path / "p.csv", "--prevalence", "data") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "give CLASS=P, or estimate" in said
    assert "warning" not in said


def test_sets_are_written_alike_and_do_not_depend_on_prevalence(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the adapter's thresholds, at whatever prevalence the probabilities are told."""
    rows = pd.read_csv(table)
    further = table.with_name("further.csv")
    rows[20:].to_csv(further, index=False)
    rows[:20].to_csv(table.with_name("first.csv"), index=False)
    out = tmp_path / "fit"
    given = ("--shots", 2, "--method", "prototype", "--tta", 1, "--coverage", 0.7)
    first = table.with_name("first.csv")
    assert run("fit", first, "--out", out, *given, "--calibrate-on", further) == 0
    assert "to hold the truth in 70 % of cases of every class" in " ".join(
        capsys.readouterr().err.split()
    )
    sets = json.loads((out / "adapter.json").read_text())["prediction_sets"]
    assert sets["source"] == "other patients"
    assert sets["groups"] == rows[20:].groupby("label").patient.nunique().tolist()
    kept: list[pd.Series] = []
    for options in ((), ("--prevalence", "tumour=0.05")):
        file = tmp_path / f"{len(options)}.csv"
        assert run("predict", out, further, "--out", file, *options) == 0
        kept.append(pd.read_csv(file))
    plain, moved = kept
    assert (plain.p_tumour > moved.p_tumour).all()
    assert plain.set.equals(moved.set)
    for name, threshold in zip(("normal", "tumour"), sets["present"], strict=True):
        inside = plain.set.fillna("").str.contains(name)
        p = plain[f"p_{name}"]
        expected = (p >= threshold) | (plain.predicted == name)
        assert (inside == expected)[(p - threshold).abs() > 1e-6].all()
    assert run("evaluate", out, further, "--out", tmp_path / "again") == 0
    told = json.loads((tmp_path / "again" / "metrics.json").read_text())["sets"]
    hit = [y in str(s) for y, s in zip(plain.given_label if "given_label" in plain else plain.label,
                                       plain.set, strict=True)]  # fmt: skip
    assert told["observed"]["value"] == pytest.approx(np.mean(hit))
    assert run("fit", table, "--out", tmp_path / "x", "--shots", 1, "--coverage", 90) == 2
    assert "--coverage 90.0: give a number between 0 and 1" in " ".join(
        capsys.readouterr().err.split()
    )
