"""A fit in one file: what is inside, with and without images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from medept import FewShotClassifier, InputError
from medept.fits import layout
from medept.workflows.share import pack


def test_what_is_handed_on_predicts_the_same(tmp_path: Path) -> None:
    images = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 30, 220, 240)]
    fitted = FewShotClassifier(method="prototype", calibrate="none", device="cpu")
    fitted.fit(images, ["dark", "dark", "bright", "bright"]).save(tmp_path / "fit-1")
    (tmp_path / "fit-1" / layout.REPORT).write_text("images")
    with zipfile.ZipFile(pack(tmp_path / "fit-1", tmp_path / "all.zip")) as archive:
        assert f"fit-1/{layout.REPORT}" in archive.namelist()
        assert "bright, dark" in archive.read("HOW-TO.txt").decode()
        archive.extractall(tmp_path / "elsewhere")
    again = FewShotClassifier.load(tmp_path / "elsewhere" / "fit-1", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    with zipfile.ZipFile(pack(tmp_path / "fit-1", tmp_path / "bare.zip", images=False)) as archive:
        assert f"fit-1/{layout.REPORT}" not in archive.namelist()
    with pytest.raises(InputError):
        pack(tmp_path, tmp_path / "none.zip")
