"""Values of any type and number are stretched by the formula, in parts that fit into memory."""

from __future__ import annotations

import numpy as np
import pytest

from medept import InputError
from medept.data import stretch
from medept.data.stretch import stretched


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int64", "float32", "float64"])
def test_it_is_the_formula_in_float64(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch, "_AT_ONCE", 7)  # the last part is a shorter one
    values = np.random.default_rng(0).integers(0, 30_000, (5, 6, 2)).astype(dtype)
    exact = values.astype(np.float64)
    exact = np.round((exact - exact.min()) / (exact.max() - exact.min()) * 255)
    assert stretched(values).tolist() == exact.tolist()
    assert stretched(np.full((3, 4), 7, dtype)).tolist() == np.zeros((3, 4)).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_refused(bad: float) -> None:
    values = np.ones((40, 50))
    values[30, 20] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        stretched(values)
