"""LabelledImages: parts of one length, and targets that fit the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import read_csv

from medept import InputError
from medept.data.labelled_images import LabelledImages


@pytest.mark.parametrize(
    ("targets", "classes"),
    [([0, 2], ("x", "y")), ([-1, 0], ("x", "y")), ([[0, 1, 0], [1, 0, 0]], ("x", "y")),
     ([[0, 2], [1, 0]], ("x", "y")), ([[[0]], [[1]]], ("x",))],
)  # fmt: skip
def test_targets_must_fit_the_classes(targets: list[object], classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="targets of shape .*: give 2 class indices"):
        LabelledImages(("a", "b"), ("a", "b"), np.array(targets), classes)


def test_subset_keeps_rows_together(folder: Path) -> None:
    data = read_csv(folder, "image,label,patient\na.png,y,p1\nb.png,x,p2\nc.png,y,p3\n")
    part = data.subset(np.array([2, 0]))
    assert (part.names, part.targets.tolist()) == (("c.png", "a.png"), [1, 1])
    assert part.groups is not None
    assert part.groups.tolist() == ["p3", "p1"]
