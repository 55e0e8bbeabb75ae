"""Stored values of a DICOM frame as a radiologist's display shows them.

Values pass through the modality LUT (rescale), the VOI window and, for MONOCHROME1, an inversion,
in the order of DICOM PS3.3 C.11. A frame without a window gets one from its own percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medept.data.dicom.files import import_pydicom
from medept.errors import DataError

DISPLAY_ATTRIBUTES = (
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip

PERCENTILES = (1.0, 99.0)
"""The window of a grey frame that has none; padding is not counted."""


def display_colour(data: Any, stored: np.ndarray) -> np.ndarray:
    """A colour or palette frame as uint8 (H, W, 3).

    Args:
        data: the pydicom data set.
        stored: (H, W, 3) RGB, or (H, W) indices into the palette.
    """
    if data.PhotometricInterpretation == "PALETTE COLOR":
        stored = import_pydicom().pixels.apply_color_lut(stored, data)[..., :3]
        top = 2 ** (8 * stored.dtype.itemsize) - 1
    else:
        top = 2 ** int(data.BitsStored) - 1
    return np.round(np.clip(stored / top, 0, 1) * 255).astype(np.uint8)


def display_grey(data: Any, stored: np.ndarray, index: int) -> np.ndarray:
    """A grey frame as uint8 (H, W).

    Args:
        data: the pydicom data set.
        stored: (H, W) values as they are stored.
        index: of the frame, from 0; each may have a window of its own.

    Raises:
        DataError: if values are not finite, or the window is not allowed.
    """
    rescale = _functional_group(data, index, "PixelValueTransformationSequence")
    values = _rescaled(rescale, stored)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite values; replace them first")
    voi = _functional_group(data, index, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        shown = _apply_voi_table(values, voi)
    elif window := _first_window(voi):
        shown = apply_window(values, *window, str(voi.get("VOILUTFunction", "LINEAR")))
    else:
        shown = _apply_percentile_window(values, ~_is_padding(data, stored))
    if data.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.round(shown * 255).astype(np.uint8)


def grey_values(data: Any, stored: np.ndarray, index: int) -> np.ndarray:
    """What a grey frame was measured to be, float64 (H, W): rescaled, and without padding.

    Args:
        data: the pydicom data set.
        stored: (H, W) values as they are stored.
        index: of the frame, from 0.

    Raises:
        DataError: if values are not finite.
    """
    rescale = _functional_group(data, index, "PixelValueTransformationSequence")
    values, padding = _rescaled(rescale, stored), _is_padding(data, stored)
    if not np.isfinite(values[~padding]).all():
        raise DataError("holds NaN or infinite values; replace them first")
    if padding.any() and not padding.all():
        values[padding] = values[~padding].min()
    return values


def _functional_group(data: Any, index: int, name: str) -> Any:
    """Where a frame's attributes stand: its own functional group, the shared one, or the file."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for group in [*frames[index : index + 1], *shared[:1]]:
        if group.get(name):
            return group[name].value[0]
    return data


def _rescaled(data: Any, stored: np.ndarray) -> np.ndarray:
    """Values in float64 after the modality LUT, or slope (default 1) and intercept (default 0)."""
    if "ModalityLUTSequence" in data:
        return import_pydicom().pixels.apply_modality_lut(stored, data).astype(np.float64)
    slope, intercept = data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)
    return stored.astype(np.float64) * float(slope) + float(intercept)


def apply_window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values from 0 to 1, by a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``; anything else counts as ``LINEAR``.

    Raises:
        DataError: if the function does not allow this width.

    >>> apply_window(np.array([-160.0, 40.0, 240.0]), 40, 400, "LINEAR_EXACT").tolist()
    [0.0, 0.5, 1.0]
    """
    if not (width >= 1 if function == "LINEAR" else width > 0):
        raise DataError(f"its window width of {width:g} is not allowed; correct or remove it")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _apply_voi_table(values: np.ndarray, voi: Any) -> np.ndarray:
    bits = int(voi.VOILUTSequence[0].LUTDescriptor[2])
    table = import_pydicom().pixels.apply_voi(values.astype(np.int64), voi)
    return np.clip(table / (2**bits - 1), 0, 1)


def _is_padding(data: Any, stored: np.ndarray) -> np.ndarray:
    """Which values are padding, compared in the type of the pixels.

    A signed padding value may be written as an unsigned one, and the other way round.
    """
    names = ("PixelPadding", "FloatPixelPadding", "DoubleFloatPixelPadding")
    name = next((name for name in names if f"{name}Value" in data), None)
    if name is None:
        return np.zeros(stored.shape, dtype=bool)
    bits = int(data.get("BitsStored", 8 * stored.dtype.itemsize))
    ends = [data[f"{name}Value"].value, data.get(f"{name}RangeLimit", data[f"{name}Value"].value)]
    low, high = sorted(_as_stored(end, stored.dtype, bits) for end in ends)
    return (stored >= low) & (stored <= high)


def _as_stored(value: float, dtype: np.dtype, bits: int) -> float:
    """A value in the type of pixels of which ``bits`` are used, by two's complement."""
    if dtype.kind not in "iu":
        return float(dtype.type(value))
    value, top = int(value), 8 * dtype.itemsize
    if dtype.kind == "u":
        return value % 2**top if value < 0 else value
    if 2 ** (bits - 1) <= value < 2**bits:
        return value - 2**bits
    return value - 2**top if 2 ** (top - 1) <= value < 2**top else value


def _apply_percentile_window(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values[real] if real.any() else values, PERCENTILES)
    if low == high:
        low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if low < high else np.zeros(values.shape)


def _first_window(voi: Any) -> tuple[float, float] | None:
    """Centre and width of the first window, which is the one to show by default."""
    lists = []
    for name in ("WindowCenter", "WindowWidth"):
        value = voi.get(name)
        lists.append(list(value) if isinstance(value, Sequence | tuple) else [value])
    for centre, width in zip(*lists, strict=False):
        if centre not in (None, "") and width not in (None, ""):
            return float(centre), float(width)
    return None
