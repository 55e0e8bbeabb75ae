"""A whole slide as tissue tiles of one size and resolution, with the table that `fit` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medept.data.spreadsheet import read_table
from medept.errors import DataError, ResourceError
from medept.files import as_given, claim_folder, whole_file, write_table
from medept.progress import Progress, silent

CELLS = 8
"""Pixels of the overview along a tile's side: what its share of tissue is counted on."""
SATURATION = 18
"""Of 255: stained tissue is more colourful than glass (white, grey or black)."""


def write_slides(slides: Sequence[Path], out: Path, **options: Any) -> tuple[Path, pd.DataFrame]:
    """Tiles of each slide, as :func:`write_tiles`; where they are several, ``slides.csv`` of all.

    Columns that were added to that table are kept too.

    Returns:
        The path of the table, and the table.
    """
    tables = [write_tiles(slide, out, **options) for slide in slides]
    if len(slides) == 1:
        return out / f"{slides[0].stem}.csv", tables[0]
    file = out / "slides.csv"
    return file, _write_over(file, pd.concat(tables, ignore_index=True).fillna(""))


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

    Tiles that are there already are kept, so an interrupted call goes on where it stopped; so are
    columns that were added to the table.

    Args:
        size: pixels along a tile's side.
        mpp: micrometres a pixel of the tiles.
        slide_mpp: the same of the slide's finest level; default: what the slide says.
        tissue: least share of a tile that is no background, 0 to 1.

    Returns:
        One row a tile: path, slide, group (the slide), x and y (of its corner, in pixels of the
        finest level) and the level that was read.

    Raises:
        InputError: if OpenSlide is missing or cannot read the slide, a number is out of range,
            the slide states no resolution, or ``out`` has other tiles of that name.
    """
    if size < 1 or mpp <= 0 or not 0 <= tissue <= 1:
        raise DataError("tiles need --size of 1 or more, --mpp above 0, --tissue from 0 to 1")
    with _open(slide) as source:
        span = max(1, round(size * mpp / _resolution(slide, source, slide_mpp)))
        corners = _tissue_corners(source, span, tissue)
        if not corners:
            raise DataError(f"{slide}: no tile of {span} pixels holds tissue; lower --tissue")
        made_from = {
            "bytes": slide.stat().st_size,
            "pixels": source.dimensions,
            "tiles": [size, span, tissue],
            "quickhash": source.properties.get("openslide.quickhash-1"),
        }
        other = f"something other than such tiles of {slide}"
        claim_folder(out / slide.stem, "slide.json", made_from, other)
        level = source.get_best_level_for_downsample(span / size + 1e-6)
        rows = []
        for done, (x, y) in enumerate(corners, 1):
            tile = Path(slide.stem) / f"{x}_{y}_{span}_{size}.png"
            if not (out / tile).exists():
                _write_tile(slide, source, out / tile, (x, y), span, size, level)
            rows.append((tile.as_posix(), slide.stem, slide.stem, x, y, level))
            progress("tiles", done, len(corners))
    table = pd.DataFrame(rows, columns=["path", "slide", "group", "x", "y", "level"])
    return _write_over(out / f"{slide.stem}.csv", table)


def _write_over(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table, with the columns that an earlier one in its place was given."""
    if file.exists():
        table = _with_columns_of(file, table)
    write_table(file, table)
    return table


def _with_columns_of(file: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Tiles with the columns, such as labels, that their earlier table was given."""
    before = read_table(file).frame.map(as_given)
    added = [name for name in before if name not in table]
    if "path" not in before or not added:
        return table
    return table.merge(before[["path", *added]], on="path", how="left").fillna(
        dict.fromkeys(added, "")
    )


def _open(slide: Path) -> Any:
    try:
        import openslide
    except ImportError as error:
        raise ResourceError(
            f"{slide}: slides need OpenSlide: pip install 'medept[slides]'"
        ) from error
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
            f"{slide}: it states no resolution; give micrometres per pixel with --slide-mpp"
        )
    return value


def _tissue_corners(source: Any, span: int, least: float) -> list[tuple[int, int]]:
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
