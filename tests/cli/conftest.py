"""Data and fits that the tests of several verbs share; nothing is written beside them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import refuse, run
from PIL import Image

from medept.phantoms import make_phantoms, write_phantoms


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 24 images of 12 patients in two classes; only to be read."""
    data = make_phantoms("colon", patients=12, images_per_patient=2, size=64, difficulty=0.2)
    return write_phantoms(data, tmp_path_factory.mktemp("phantoms") / "colon")


@pytest.fixture
def own_table(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the table and its images, to write beside."""
    folder = tmp_path_factory.mktemp("own") / "colon"
    return shutil.copytree(table.parent, folder) / table.name


@pytest.fixture(scope="session")
def fitted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit by EPT to two patients of each class; only to be read."""
    out = tmp_path_factory.mktemp("fits") / "ept"
    run("fit", table, "--out", out, "--shots", "2", "--method", "ept", "--epochs", "2",
        "--device", "cpu", "--precision", "float32")  # fmt: skip
    return out


@pytest.fixture
def copied(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the fit, to damage."""
    return shutil.copytree(fitted, tmp_path / "copy")


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


@pytest.fixture
def refuses(
    fitted: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str], str], None]:
    """Checks that a command is refused with a message, and leaves nothing behind.

    TABLE, its TABLE_FOLDER and FIT stand for what is there, OUT for what is not; ``--out`` is added
    where the verb needs it.
    """
    places = {"TABLE": table, "FIT": fitted, "TABLE_FOLDER": table.parent, "OUT": tmp_path / "out"}
    pattern = "^(TABLE_FOLDER|TABLE|FIT|OUT)"

    def check(arguments: list[str], message: str) -> None:
        given = [re.sub(pattern, lambda m: str(places[m[0]]), a) for a in arguments]
        if given[0] in ("fit", "predict", "embed", "phantoms", "bench") and "--out" not in given:
            given += ["--out", str(tmp_path / ("out.npy" if given[0] == "embed" else "out.csv"))]
        refuse(capsys, given, message)
        assert list(tmp_path.iterdir()) == []

    return check
