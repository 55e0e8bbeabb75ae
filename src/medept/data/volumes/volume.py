"""The voxels of a volume, and which way they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medept.errors import DataError

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""The axis of the patient (to the right, to the front, upwards) that a plane is cut across."""

_SHOWN = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
"""The axes of the patient along the rows and the columns of an image."""


@dataclass(frozen=True)
class Volume:
    """A volume that is read slab by slab.

    Attributes:
        path: its file, or the folder of its files.
        shape: voxels along its three axes.
        affine: (4, 4) voxel indices to millimetres: to the right, to the front, upwards (RAS+).
        slabs: yields the values (I, J), float32, for each index of the last axis, in order.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    slabs: Callable[[], Iterator[np.ndarray]]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels, along its three axes."""
        one, two, three = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return one, two, three

    def axes(self) -> tuple[tuple[int, bool], ...]:
        """For each axis of the patient, the axis of the voxels next to it, and if it is reversed.

        Raises:
            DataError: if the affine does not say.
        """
        from scipy.optimize import linear_sum_assignment

        matrix = self.affine[:3, :3]
        if not np.isfinite(self.affine).all() or np.linalg.matrix_rank(matrix) < 3:
            raise DataError(
                "its affine is singular, and does not say which way the voxels lie; correct it"
            )
        directions = matrix / np.linalg.norm(matrix, axis=0)
        if not np.isfinite(directions).all():  # of spacings near the largest or smallest number
            raise DataError("its affine is of wild numbers; correct it")
        rows, columns = linear_sum_assignment(-np.abs(directions))
        return tuple(
            (int(c), bool(directions[r, c] < 0)) for r, c in zip(rows, columns, strict=True)
        )


@dataclass(frozen=True)
class Cut:
    """How slices of a plane come out of the voxels of a volume.

    Attributes:
        across: the axis of the voxels that is cut across.
        reversed_across: whether slices are counted from its end.
        transposed: whether the two other axes change places.
        flips: whether rows and columns are reversed.
        spacing: millimetres between rows and between columns.
        count: number of slices.
    """

    across: int
    reversed_across: bool
    transposed: bool
    flips: tuple[bool, bool]
    spacing: tuple[float, float]
    count: int

    @classmethod
    def of(cls, volume: Volume, plane: str) -> Cut:
        """Slices as a radiologist looks at them.

        The patient's right is on the left; the front, or in coronal and sagittal slices the head,
        is at the top; in sagittal slices the front is on the left. They are counted upwards, to
        the front, and to the right.

        Raises:
            DataError: if the affine is singular, or slices would be of a few pixels.
        """
        axes, spacing = volume.axes(), volume.spacing
        across, reverse = axes[PLANES[plane]]
        (row, row_reversed), (column, column_reversed) = (axes[a] for a in _SHOWN[plane])
        sides = volume.shape[row], volume.shape[column]
        if min(sides) < SMALLEST:
            raise DataError(
                f"{plane} slices would have {sides[0]} x {sides[1]} pixels (the volume has "
                f"{' x '.join(map(str, volume.shape))}): choose another plane="
            )
        return cls(
            across=across,
            reversed_across=reverse,
            transposed=row > column,
            flips=(not row_reversed, not column_reversed),
            spacing=(spacing[row], spacing[column]),
            count=volume.shape[across],
        )

    def voxel(self, index: int) -> int:
        """The index along the axis of the voxels of slice ``index``."""
        return self.count - 1 - index if self.reversed_across else index

    def shown(self, values: np.ndarray) -> np.ndarray:
        """A slice (the two other axes of the voxels, in their order) as it is shown (H, W)."""
        turned = values.T if self.transposed else values
        if self.flips[0]:
            turned = turned[::-1]
        return turned[:, ::-1] if self.flips[1] else turned


SMALLEST = 8
"""Pixels that a slice has at least along each side."""
