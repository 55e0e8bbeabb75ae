"""Near duplicates against a comparison of every pair, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from medept.checks import duplicates
from medept.checks.duplicates import exact_duplicates, fingerprint, near_duplicates


def test_sets_are_those_of_all_pairs_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images = []
    for _ in range(8):
        smooth = gaussian_filter(random.normal(size=(64, 64, 3)), (4, 4, 0))
        pixels = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
        image = Image.fromarray(pixels.astype(np.uint8))
        images += [image, image.resize((80, 80)), image.point(lambda value: value * 0.9)]
    images += [images[0].copy(), Image.new("RGB", (9, 9)), Image.new("RGB", (9, 9))]
    prints = [fingerprint(image) for image in images]
    assert exact_duplicates(prints) == [[0, 24]], "pictures of one colour are no duplicates"
    expected = []
    for first in range(0, 24, 3):
        rows = range(first, first + 3)
        pairs = [(prints[i], prints[j]) for i in rows for j in rows]
        assert all((a.bits != b.bits).sum() <= duplicates.HASH_DISTANCE for a, b in pairs)
        assert all(float(a.thumbnail @ b.thumbnail) >= duplicates.CORRELATION for a, b in pairs)
        expected.append(list(rows))
    for block in (1024, 5, 1):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        assert near_duplicates(prints) == expected
