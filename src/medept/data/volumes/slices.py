"""Slices of a volume as images: which of them, and how they are shown.

A volume is read twice, slab by slab: once to find what is not empty and which values to show, and
once, when its first slice is wanted, for all slices that were chosen. These are kept as 8-bit
images for a few volumes at a time; no volume is ever in memory as a whole.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from medept.data.lazy_image import LazyImage
from medept.data.volumes.open import open_values
from medept.data.volumes.slicing import Slicing
from medept.data.volumes.volume import Cut, Volume
from medept.errors import DataError, InputError

COARSE = 64
"""Voxels a side of the coarse copy that tells what is empty, about."""

PERCENTILES = (1.0, 99.0)
"""What the window ``auto`` shows of the values that are not empty."""

EMPTY, FEW = 0.1, 0.05
"""A voxel is empty if it is in the lowest tenth of the range of values (up to their 99th
percentile); a slice, if it has less than a twentieth of the full voxels of the fullest slice."""

KEPT = 4
"""Volumes whose slices are kept in memory."""

LARGEST = 8192
"""Pixels of the longer side that a slice may have after it was made square."""


@dataclass(frozen=True)
class VolumeSource:
    """A volume and the slices that are read of it.

    Attributes:
        path: its file or folder.
        slicing: how it was cut.
        indices: of the slices, counted from 0 upwards, to the front or to the right.
        low: value that is shown black.
        high: value that is shown white.
    """

    path: Path
    slicing: Slicing
    indices: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True)
class VolumeSlice(LazyImage):
    """One slice of a volume."""

    source: VolumeSource
    index: int

    @property
    def path(self) -> Path:
        """The file or folder of the volume."""
        return self.source.path

    @property
    def key(self) -> str:
        """The plane and the number of the slice, counted from 1."""
        return f"{self.source.slicing.plane}-{self.index + 1}"

    def read(self) -> Image.Image:
        """The slice, with square pixels.

        Raises:
            InputError: if the volume cannot be read.
        """
        return Image.fromarray(_LOADED.get(self.source)[self.index])

    def __str__(self) -> str:
        return f"{self.path}#{self.key}"


def scan(volume: Volume, slicing: Slicing) -> VolumeSource:
    """Choose the slices of a volume and the values that they show, from one pass over its voxels.

    Raises:
        DataError: if a voxel is NaN or infinite, all are equal, or slices would be too thin.
    """
    cut = Cut.of(volume, slicing.plane)
    step = max(1, min(volume.shape[:2]) // COARSE)
    coarse = []
    for k, slab in enumerate(volume.slabs()):
        if not np.isfinite(slab).all():
            raise DataError(f"holds NaN or infinite values (slab {k + 1}); replace them first")
        coarse.append(slab[::step, ::step])
    values = np.stack(coarse, axis=2)
    low, high = float(values.min()), float(np.percentile(values, PERCENTILES[1]))
    if not low < values.max():
        raise DataError(f"all its voxels are {low:g}: there is nothing to see; remove it")
    full = values > low + EMPTY * ((high if high > low else float(values.max())) - low)
    counts = full.sum(axis=tuple(axis for axis in range(3) if axis != cut.across))
    indices = _chosen(counts, cut, step if cut.across < 2 else 1, slicing.slices)
    shown = slicing.range() or tuple(float(x) for x in np.percentile(values[full], PERCENTILES))
    if not shown[0] < shown[1]:
        shown = low, float(values.max())
    return VolumeSource(volume.path, slicing, indices, *shown)


def _chosen(counts: np.ndarray, cut: Cut, step: int, wanted: int | None) -> tuple[int, ...]:
    """Indices of the slices, evenly over the part that is not empty.

    Args:
        counts: full voxels of slices of the coarse copy, along the axis of the voxels.
        step: slices of the volume from one to the next.
        wanted: None for all of the volume.
    """
    if wanted is None or wanted >= cut.count:
        return tuple(range(cut.count))
    some = np.flatnonzero(counts >= max(1, FEW * counts.max())) * step
    ends = sorted(cut.voxel(min(int(end), cut.count - 1)) for end in (some[0], some[-1]))
    span = ends[1] - ends[0] + 1
    if span < wanted:  # fewer than asked for: those around it as well
        first = min(max(0, ends[0] - (wanted - span) // 2), cut.count - wanted)
        return tuple(range(first, first + wanted))
    return tuple(ends[0] + int((i + 0.5) * span / wanted) for i in range(wanted))


def render(volume: Volume, source: VolumeSource) -> dict[int, np.ndarray]:
    """The slices as uint8, (H, W) or (H, W, 3) with neighbours, by index; in one pass."""
    cut = Cut.of(volume, source.slicing.plane)
    around = (-1, 0, 1) if source.slicing.channels == "neighbours" else (0,)
    wanted = {
        min(max(index + offset, 0), cut.count - 1) for index in source.indices for offset in around
    }
    found = _read(volume, cut, {cut.voxel(index): index for index in wanted}, source)
    grey = {index: _square(cut.shown(values), cut.spacing) for index, values in found.items()}
    if len(around) == 1:
        return {index: grey[index] for index in source.indices}
    last = cut.count - 1
    return {
        index: np.stack([grey[min(max(index + o, 0), last)] for o in around], axis=2)
        for index in source.indices
    }


def _read(
    volume: Volume, cut: Cut, wanted: dict[int, int], source: VolumeSource
) -> dict[int, np.ndarray]:
    """Slices (the two other axes of the voxels) as uint8, by index.

    Args:
        wanted: the index of each slice, by its index along the axis of the voxels.
    """
    sides = [side for axis, side in enumerate(volume.shape) if axis != cut.across]
    found = {index: np.zeros(sides, dtype=np.uint8) for index in wanted.values()}
    for k, slab in enumerate(volume.slabs()):
        if cut.across == 2:
            if k in wanted:
                found[wanted[k]][:] = _windowed(slab, source)
            continue
        for voxel, index in wanted.items():
            line = slab[voxel] if cut.across == 0 else slab[:, voxel]
            found[index][:, k] = _windowed(line, source)
    return found


def _windowed(values: np.ndarray, source: VolumeSource) -> np.ndarray:
    share = (values - source.low) / (source.high - source.low)
    return np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _square(image: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """The image with pixels as wide as they are high: the finer spacing of the two."""
    finest = min(spacing)
    height, width = (
        max(1, round(side * step / finest)) for side, step in zip(image.shape, spacing, strict=True)
    )
    if (height, width) == image.shape:
        return np.ascontiguousarray(image)
    if max(height, width) > LARGEST:
        raise DataError(
            f"its spacing of {spacing[0]:g} x {spacing[1]:g} mm would make slices of {height} x "
            f"{width} pixels; correct it"
        )
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)


class _Loaded:
    """The slices of the volumes that were read last."""

    def __init__(self) -> None:
        self._slices: OrderedDict[VolumeSource, dict[int, np.ndarray]] = OrderedDict()
        self._lock = Lock()
        self._reading: defaultdict[VolumeSource, Lock] = defaultdict(Lock)

    def get(self, source: VolumeSource) -> dict[int, np.ndarray]:
        """The slices of a volume, which is read once however many threads ask for it."""
        with self._lock:
            reading = self._reading[source]
        with reading:
            if source in self._slices:
                return self._slices[source]
            try:
                slices = render(open_values(source.path), source)
            except InputError as error:
                raise type(error)(str(error).removeprefix(f"{source.path}: ")) from error
            with self._lock:
                self._slices[source] = slices
                while len(self._slices) > KEPT:
                    gone, _ = self._slices.popitem(last=False)
                    self._reading.pop(gone, None)
        return slices


_LOADED = _Loaded()
