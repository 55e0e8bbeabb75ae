"""Whole slides, cut into tiles of tissue, with a table of the tiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medept.data.folder_images import LeftOut
from medept.data.formats import long_suffix
from medept.data.table import read_table
from medept.errors import DataError, ResourceError, SettingsError
from medept.files import claim_folder, unescape_cell, whole_file, write_table
from medept.progress import Progress, silent

logger = logging.getLogger(__name__)

CELLS = 8
"""Pixels of the overview along a tile's side, from which the tile's share of tissue is counted."""

SATURATION = 18
"""Above this difference of colour channels (0 to 255) a pixel is stained tissue, not glass."""


def find_slides(paths: Sequence[Path]) -> list[Path]:
    """The slides that files and folders (without their subfolders) stand for, in that order.

    What else is in a folder is left out, and counted in a note.

    Raises:
        ResourceError: if OpenSlide is missing.
        DataError: if a folder holds no slide, or two slides have the same name.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside, left = [], LeftOut()
        for file in sorted(file for file in path.iterdir() if file.is_file()):
            if _openslide(file).OpenSlide.detect_format(file):
                inside.append(file)
            else:
                left.add(long_suffix(file) or "file without a suffix", "", picture=False)
        if not inside:
            raise DataError(f"{path}: no slide in this folder{f' (but {left})' * bool(left)}")
        if left:
            logger.warning("%s: %d slides; left out: %s", path, len(inside), left)
        found += inside
    stems: dict[str, Path] = {}
    for slide in found:
        if (other := stems.setdefault(slide.stem, slide)) != slide:
            raise DataError(
                f"{other} and {slide}: two slides of one name would share a table; rename one, or "
                "tile them into different folders"
            )
    return found


def write_slides(slides: Sequence[Path], out: Path, **options: Any) -> tuple[Path, pd.DataFrame]:
    """Cut several slides (:func:`write_tiles`), and list all tiles in ``slides.csv``.

    A single slide has only its own table. Columns that were added to a table are kept.

    Args:
        options: what :func:`write_tiles` takes besides the slide and the folder.

    Returns:
        The path of the table of all tiles, and the table.
    """
    tables = [write_tiles(slide, out, **options) for slide in slides]
    if len(slides) == 1:
        return out / f"{slides[0].stem}.csv", tables[0]
    file = out / "slides.csv"
    return file, _update_table(file, pd.concat(tables, ignore_index=True).fillna(""))


def write_tiles(
    slide: Path,
    out: Path,
    *,
    size: int = 224,
    mpp: float = 0.5,
    slide_mpp: float | None = None,
    tissue: float = 0.25,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Write the tiles with enough tissue as PNG files, and ``SLIDE.csv`` beside their folder.

    A second call resumes where the first was interrupted: tiles that are there already are kept. So
    are columns that were added to the table, such as labels.

    Args:
        size: pixels along a tile's side.
        mpp: micrometres per pixel of the tiles.
        slide_mpp: micrometres per pixel of the slide's finest level; default: what the slide says.
        tissue: smallest share of a tile that has to be tissue, 0 to 1.

    Returns:
        One row a tile: path, slide, group (the slide), x and y (of its corner, in pixels of the
        finest level) and the level that was read.

    Raises:
        ResourceError: if OpenSlide is missing.
        SettingsError: if a number is out of range.
        DataError: if OpenSlide cannot read the slide, the slide states no resolution, no tile holds
            tissue, or ``out`` holds other tiles of that name.
    """
    if size < 1 or mpp <= 0 or not 0 <= tissue <= 1:
        raise SettingsError("tiles need size= of 1 or more, mpp= above 0 and tissue= from 0 to 1")
    with _open(slide) as source:
        span = max(1, round(size * mpp / _resolution(slide, source, slide_mpp)))
        corners = _tissue_corners(source, span, tissue)
        if not corners:
            raise DataError(f"{slide}: no tile of {span} pixels holds tissue; lower tissue=")
        made_from = {
            "bytes": slide.stat().st_size,
            "pixels": source.dimensions,
            "tiles": [size, span, tissue],
            "quickhash": source.properties.get("openslide.quickhash-1"),
        }
        other = f"something other than these tiles of {slide}"
        claim_folder(out / slide.stem, "slide.json", made_from, other)
        _log_left_out(slide, source.dimensions, span, len(corners), tissue)
        level = source.get_best_level_for_downsample(span / size + 1e-6)
        rows = []
        for done, (x, y) in enumerate(corners, 1):
            tile = Path(slide.stem) / f"{x}_{y}_{span}_{size}.png"
            if not (out / tile).exists():
                _write_tile(slide, source, out / tile, (x, y), span, size, level)
            rows.append((tile.as_posix(), slide.stem, slide.stem, x, y, level))
            progress("tiles", done, len(corners))
    table = pd.DataFrame(rows, columns=["path", "slide", "group", "x", "y", "level"])
    return _update_table(out / f"{slide.stem}.csv", table)


def _update_table(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table, with the columns that were added to an earlier version of it."""
    if file.exists():
        table = _with_columns_of(file, table)
    write_table(file, table)
    return table


def _with_columns_of(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The tiles with the columns, such as labels, that were added to their earlier table."""
    before = read_table(file).frame.map(unescape_cell)
    added = [name for name in before if name not in table]
    if "path" not in before or not added:
        return table
    return table.merge(before[["path", *added]], on="path", how="left").fillna(
        dict.fromkeys(added, "")
    )


def _openslide(slide: Path) -> Any:
    try:
        import openslide
    except ImportError as error:
        raise ResourceError(
            f"{slide}: slides need OpenSlide: pip install 'medept[slides]'"
        ) from error
    return openslide


def _open(slide: Path) -> Any:
    openslide = _openslide(slide)
    if not slide.is_file():
        raise DataError(f"{slide}: no such slide; check the path")
    try:
        return openslide.OpenSlide(slide)
    except openslide.OpenSlideError as error:
        raise DataError(f"{slide}: OpenSlide cannot read it ({error}); replace it") from error


def _resolution(slide: Path, source: Any, given: float | None) -> float:
    value = given if given is not None else float(source.properties.get("openslide.mpp-x", 0))
    if value <= 0:
        raise DataError(
            f"{slide}: states no resolution; give micrometres per pixel with slide_mpp="
        )
    return value


def _tissue_corners(source: Any, span: int, least: float) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of the tiles whose share of tissue is at least ``least``."""
    columns, rows = (extent // span for extent in source.dimensions)
    if columns == 0 or rows == 0:
        return []
    shown = source.get_thumbnail(tuple(max(1, e * CELLS // span) for e in source.dimensions))
    shown = shown.convert("RGB").resize(
        (columns * CELLS, rows * CELLS),
        box=(0, 0, *(n * span * s / e for n, s, e in
                     zip((columns, rows), shown.size, source.dimensions, strict=True))),
    )  # fmt: skip
    colours = np.asarray(shown).astype(int)
    coloured = colours.max(axis=2) - colours.min(axis=2) > SATURATION
    share = coloured.reshape(rows, CELLS, columns, CELLS).mean(axis=(1, 3))
    return [(int(c) * span, int(r) * span) for r, c in np.argwhere(share >= max(least, 1e-9))]


def _log_left_out(
    slide: Path, extents: tuple[int, int], span: int, tiles: int, tissue: float
) -> None:
    columns, rows = (extent // span for extent in extents)
    right, below = (extent % span for extent in extents)
    margin = f", and a margin of {right} x {below} pixels" if right or below else ""
    logger.info(
        "%s: %d tiles; left out: %d with less than %g %% of tissue%s",
        slide.name, tiles, columns * rows - tiles, 100 * tissue, margin,
    )  # fmt: skip


def _write_tile(
    slide: Path,
    source: Any,
    file: Path,
    corner: tuple[int, int],
    span: int,
    size: int,
    level: int,
) -> None:
    side = max(1, round(span / source.level_downsamples[level]))
    try:
        region = source.read_region(corner, level, (side, side))
    except Exception as error:
        raise DataError(f"{slide}: damaged at {corner} ({error}); replace it") from error
    glass = Image.new("RGBA", region.size, "white")
    tile = Image.alpha_composite(glass, region).convert("RGB")
    with whole_file(file) as partial:
        tile.resize((size, size), Image.Resampling.BOX).save(partial, format="PNG")
