"""Hashes of files against published ones, and keys that tell images apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medept import InputError
from medept.data.image_hashes import file_hash, image_key

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_the_hash_of_an_image_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert file_hash(path) == file_hash(str(path)) == file_hash(f"{path}#3") == expected
    assert file_hash(RAMP) == file_hash(Image.fromarray(RAMP)) == ""


def test_a_key_tells_images_apart_by_their_content(tmp_path: Path) -> None:
    """Not by their name alone, nor by bytes that have another shape or type."""
    path = tmp_path / "image.png"
    path.write_bytes(b"first")
    first = image_key(path)
    path.write_bytes(b"second")
    assert image_key(path) != first
    same = [RAMP, RAMP.copy(), Image.fromarray(RAMP)]
    others = [RAMP.reshape(8, 6), RAMP.view(np.int8), RAMP + 1]
    assert len({image_key(image) for image in same}) == 1
    assert len({image_key(image) for image in [RAMP, *others]}) == 4
    with pytest.raises(InputError, match=r"none\.png: .*check the path"):
        image_key(tmp_path / "none.png")
