"""A fit from table to files: what it reads, and how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medept import FewShotClassifier
from medept.data import images
from medept.data.dataset import read_dataset
from medept.phantoms import make_phantoms, write_phantoms
from medept.workflows.fit import fit


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the data check, training, predictions, the analysis of features and the report alike."""
    data = make_phantoms("colon", patients=8, images_per_patient=2, size=64)
    table = write_phantoms(data, tmp_path / "tiles")
    decodes: Counter[str] = Counter()
    decode = images._from_path

    def counted(path: Path) -> object:
        decodes[path.name] += 1
        return decode(path)

    monkeypatch.setattr(images, "_from_path", counted)
    classifier = FewShotClassifier(method="ept", epochs=1, device="cpu", precision="float32")
    fit(read_dataset(table), tmp_path / "fit", classifier, shots=2)
    assert (tmp_path / "fit" / "report.html").exists()
    assert set(decodes) == {Path(name).name for name in read_dataset(table).names}
    assert set(decodes.values()) == {1}
