"""Patients are groups, and neither their names nor their ids are in any output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import run
from samples import PATIENT_NAME, RAMP, dicom_file

from medept.data.dataset import read_dataset
from medept.data.dicom.patients import dicom_groups, find_alike_patients

pydicom = pytest.importorskip("pydicom")


def test_patients_are_groups_and_their_ids_and_names_are_not_told(tmp_path: Path) -> None:
    for i, (patient, study) in enumerate([("4711", "1.2"), ("4711", "1.3"), ("anonymous", "1.4"),
                                          ("", "1.4"), ("4712", "1.5")]):  # fmt: skip
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        dicom_file(folder / f"{i}", PatientID=patient, StudyInstanceUID=study)
    data = read_dataset(tmp_path)
    groups = dict(zip((Path(n).name for n in data.names), data.groups, strict=True))
    assert groups["0"] == groups["1"] != groups["4"]
    assert groups["2"] == groups["3"]
    assert groups["2"].startswith("study-")
    assert "4711" not in " ".join(groups.values())


def test_no_output_holds_the_name_or_the_id(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RAMP // (1 + i % 2) + np.uint16(i)
        dicom_file(
            folder / f"{i}.dcm",
            RAMP if i in (2, 4) else pixels,  # a copy, for the check to tell of
            PatientID=f"PLANTED{i}",
            OtherPatientNames=PATIENT_NAME,
            ReferringPhysicianName=PATIENT_NAME,
            PatientComments="Planted",
        )
    broken = tmp_path / "data" / "a" / "broken.dcm"
    broken.write_bytes((tmp_path / "data" / "a" / "0.dcm").read_bytes()[:-20])
    data, out = str(tmp_path / "data"), tmp_path / "out"
    assert run("check", data, "--out", str(out / "check")) == 1
    broken.unlink()
    options = ["--method", "linear", "--epochs", "1", "--device", "cpu", "--shots", "2"]
    assert run("fit", data, "--out", str(out / "fit"), *options) == 0
    assert run("predict", str(out / "fit"), data, "--out", str(out / "predictions.csv")) == 0
    assert run("evaluate", str(out / "fit"), data, "--json") == 0
    assert run("report", str(out / "fit")) == 0
    assert run("episodes", data, "--out", str(out / "lists"), "--shots", "1") == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"check.html", "report.html", "predictions.csv"} <= {path.name for path in files}
    assert any(b"patient-" in path.read_bytes() for path in files)
    told = [path.read_bytes() for path in files] + [text.encode() for text in capfd.readouterr()]
    for secret in (b"Planted", b"Rosalind", b"PLANTED"):
        assert not any(secret in content for content in told), secret


def test_patients_whose_ids_differ_in_spelling_are_told_by_file(tmp_path: Path) -> None:
    ids = ["0815", "815 ", "Z-1", "z1", "7"]
    files = [dicom_file(tmp_path / f"{i}.dcm", PatientID=name) for i, name in enumerate(ids)]
    with pytest.warns(UserWarning, match=r"0.dcm and \S*1.dcm: .* 2 sets of ids in all") as caught:
        groups = dicom_groups(files)
    assert groups is not None
    assert len(set(groups.tolist())) == 5
    assert not any(name.strip() in str(caught[0].message) for name in ids[:4]), "without the ids"
    assert {frozenset(alike) for alike in find_alike_patients([*files, tmp_path / "x.dcm"])} == {
        frozenset(groups[:2].tolist()),
        frozenset(groups[2:4].tolist()),
    }
    composed, decomposed = (
        dicom_file(tmp_path / f"{form}.dcm", SpecificCharacterSet="ISO_IR 192", PatientID=text)
        for form, text in (("c", "M\u00fcller 1"), ("d", "Mu\u0308ller 1"))
    )
    groups = dicom_groups([composed, decomposed])
    assert groups is not None
    assert groups[0] == groups[1]
