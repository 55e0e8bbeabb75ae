"""Volumes from a table to a fit, its slices and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from volume_files import write_nifti

from medept import FewShotClassifier
from medept.data.dataset import read_dataset
from medept.data.find_images import find_images
from medept.data.volumes import Slicing, open_volume
from medept.workflows.fit import fit
from medept.workflows.predict import predict

LESION = 5
"""The slice of an ill volume that shows it, of 8."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.default_rng(0)
    rows = []
    for number in range(8):
        values = random.integers(0, 400, (40, 40, 8)).astype(np.int16)
        label = "ill" if number % 2 else "well"
        if label == "ill":
            values[10:30, 10:30, LESION] = 1000
        write_nifti(folder / f"{number}.nii.gz", values)
        rows.append((f"{number}.nii.gz", label))
    pd.DataFrame(rows, columns=["image", "label"]).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def test_a_fit_to_volumes_finds_the_slice_and_predicts_the_same_later(
    table: Path, tmp_path: Path
) -> None:
    classifier = FewShotClassifier(
        readout="pooled",
        symmetry="none",
        pool="max",
        calibrate="none",
        device="cpu",
        precision="float32",
    )
    data = read_dataset(table, slices="all", window="500,1000")
    fit(data, tmp_path / "fit", classifier, shots=2)
    tested = pd.read_csv(tmp_path / "fit" / "predictions.csv")
    assert (tested["predicted"] == tested["label"]).all()
    assert tested["images"].tolist() == [8] * 4
    images = pd.read_csv(tmp_path / "fit" / "images.csv")
    ill = tested.loc[tested["label"] == "ill", "case"]
    for case, rows in images[images["case"].isin(ill)].groupby("case"):
        assert rows.loc[rows["p_ill"].idxmax(), "image"] == f"{case}#axial-{LESION + 1}"
    assert f"#axial-{LESION + 1}" in (tmp_path / "fit" / "report.html").read_text()
    loaded = FewShotClassifier.load(tmp_path / "fit", device="cpu", precision="float32")
    slicing = Slicing.parse(str(loaded.info().volumes))
    assert slicing == Slicing(slices=None, window="500,1000")
    predict(loaded, find_images([table.parent]), tmp_path / "p.csv", slicing=slicing)
    found = pd.read_csv(tmp_path / "p.csv")
    again = found.assign(case=found["image"].map(lambda name: Path(name).name)).set_index("case")
    np.testing.assert_allclose(
        again.loc[tested["case"], "p_ill"], tested["p_ill"], rtol=1e-3, atol=1e-5
    )


def test_open_volumes_are_given_to_a_classifier_in_a_list(table: Path) -> None:
    cases = [open_volume(table.parent / f"{i}.nii.gz", Slicing(slices=4)) for i in range(4)]
    classifier = FewShotClassifier(readout="pooled", symmetry="none", device="cpu")
    classifier.fit(cases, ["well", "ill"] * 2)
    assert classifier.predict_proba(cases).shape == (4, 2)
