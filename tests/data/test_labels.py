"""Labels that cannot name classes are refused, and similar ones are pointed out."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import read_csv

from medept import InputError


def test_a_column_is_no_label_that_reads_as_two(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'fluid\|mass' holds a \|"):
        read_csv(
            folder, "image,fluid|mass,air\na.png,1,0\nb.png,0,1\n", label_column="fluid|mass,air"
        )


def test_classes_that_may_be_one_are_said(folder: Path) -> None:
    with pytest.warns(UserWarning, match="'Nevus' and 'nevus' are different classes"):
        data = read_csv(folder, "image,label\na.png,Nevus\nb.png,nevus\n")
    assert data.classes == ("Nevus", "nevus")
