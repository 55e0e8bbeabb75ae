"""Findings that need no image to be read."""

from __future__ import annotations

import numpy as np
import pytest

from medept.checks.findings import predictive_sizes
from medept.data.labelled_images import LabelledImages


@pytest.mark.parametrize("telling", [True, False])
def test_sizes_that_give_the_class_away_are_told(telling: bool) -> None:
    sizes = [(100 + 10 * (i % 2 if telling else i // 2 % 2), 80) for i in range(40)]
    images = tuple(np.full((h, w, 3), i, np.uint8) for i, (w, h) in enumerate(sizes))
    names = tuple(map(str, range(40)))
    data = LabelledImages(images, names, np.arange(40) % 2, ("a", "b"))
    found = predictive_sizes(data, [*sizes])
    assert [one.kind for one in found] == (["sizes"] if telling else [])
