"""Kvasir-SEG with its masks: checked, but not classified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import shared_data
from PIL import Image
from samples import draw_images
from typer.testing import CliRunner

from medept import InputError
from medept.checks.check import check_dataset
from medept.cli import app
from medept.data.sources import open_dataset


def kvasir(folder: Path, count: int = 6) -> Path:
    """Pictures with discs, as Kvasir-SEG unpacks: JPEG for both, so masks are not quite binary."""
    names = [f"cju{i}.jpg" for i in range(count)]
    draw_images(folder / "images", names, size=32)
    (folder / "masks").mkdir()
    rows, columns = np.mgrid[:32, :32]
    for i, name in enumerate(names):
        disc = (rows - 16) ** 2 + (columns - 16) ** 2 < (4 + i) ** 2
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "masks" / name)
    return folder


def test_kvasir_seg_is_read_with_its_masks_and_checked(tmp_path: Path) -> None:
    folder = kvasir(tmp_path / "Kvasir-SEG")
    data = open_dataset(f"kvasir-seg:{tmp_path}")
    assert data.classes == ("polyp",)
    assert data.masks == tuple(folder / "masks" / name for name in data.names)
    assert data.subset([2]).masks == data.masks[2:3]
    assert not check_dataset(data).findings
    Image.new("L", (32, 32)).save(folder / "masks" / "cju1.jpg")
    Image.new("L", (30, 32), 255).save(folder / "masks" / "cju3.jpg")
    (folder / "masks" / "cju4.jpg").write_bytes(b"no mask")
    (finding,) = check_dataset(data).findings
    assert (finding.kind, finding.flatters) == ("masks", False)
    assert finding.sets == ((1,), (3,), (4,))
    assert finding.notes[0] == "marks nothing"
    assert finding.notes[1] == "30 x 32 pixels, its image 32 x 32"
    assert "cju4.jpg: not an image" in finding.notes[2]
    (folder / "masks" / "cju5.jpg").unlink()
    with pytest.raises(InputError, match=r"1 files are missing: masks/cju5\. .*https://"):
        open_dataset(f"kvasir-seg:{folder}")


def test_one_class_cannot_be_classified(tmp_path: Path) -> None:
    kvasir(tmp_path)
    command = ["fit", f"kvasir-seg:{tmp_path}", "--out", str(tmp_path / "fit"), "--shots", "2"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError)
    assert "all labels are 'polyp': at least two classes" in str(done.exception)


def test_the_real_kvasir_seg_has_a_mask_for_each_picture() -> None:
    data = open_dataset(f"kvasir-seg:{shared_data('data', 'kvasir-seg')}")
    assert len(data) == 300
    assert not check_dataset(data).findings
