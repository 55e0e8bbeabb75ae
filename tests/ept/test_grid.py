"""Resizing prompts from one token grid to another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medept import InputError
from medept.ept.grid import resize_rows, similar_grid


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_a_scaled_grid_is_found(rows: int, columns: int, factor: int) -> None:
    found = similar_grid((rows, columns), rows * columns * factor**2)
    assert found == (rows * factor, columns * factor)


@pytest.mark.parametrize(
    ("grid", "patches"), [((4, 4), 11), ((4, 4), 0), ((0, 0), 4), ((8, 2), 15)]
)
def test_patches_that_form_no_such_grid_are_refused(grid: tuple[int, int], patches: int) -> None:
    with pytest.raises(InputError, match="use images of the same proportions"):
        similar_grid(grid, patches)


def test_prefix_rows_stay_and_a_plane_stays_a_plane() -> None:
    """Bicubic interpolation reproduces a linear function away from the borders."""
    slope = torch.arange(8.0)
    plane = (slope[:, None] + 2 * slope).reshape(64, 1)
    prefix = torch.tensor([[7.0], [-3.0]])
    resized = resize_rows(torch.cat([prefix, plane]), prefix=2, old=(8, 8), new=(16, 16))
    assert torch.equal(resized[:2], prefix)
    middle = resized[2:].reshape(16, 16)[4:12, 4:12]
    torch.testing.assert_close(middle.diff(dim=0), torch.full((7, 8), 0.5))
    torch.testing.assert_close(middle.diff(dim=1), torch.full((8, 7), 1.0))
