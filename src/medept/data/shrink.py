"""A copy of a data set whose images are small, so that fits and benchmarks read it fast."""

from __future__ import annotations

from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medept.data.dicom import split_frame
from medept.data.images import ORIGINAL, ImageLike, original_hash, read_image
from medept.data.table import LabelledImages, label_texts
from medept.data.threads import ahead, available_threads
from medept.errors import DataError
from medept.files import claim_folder, whole_file, write_table
from medept.progress import Progress, silent

IMAGES = "images"


def write_shrunk(
    data: LabelledImages, out: Path, *, pixels: int = 512, progress: Progress = silent
) -> Path:
    """Write images as 8-bit RGB PNG files, and ``labels.csv`` with labels, groups and splits.

    Each says what it was made of (:func:`medept.data.images.original_hash`), so that what is fitted
    to copies is not evaluated on their originals. Copies that are there already are kept, and an
    interrupted call goes on where it stopped; those whose originals have changed since are written
    anew, and those without any are removed.

    Args:
        out: a folder: new, empty, or of an earlier call for as many pixels.
        pixels: along an image's shorter side, at most.

    Returns:
        The path of ``labels.csv``.

    Raises:
        InputError: if ``pixels`` is below 1, ``out`` holds anything else, or an image cannot be
            read.
    """
    if pixels < 1:
        raise DataError(f"--pixels {pixels}: give 1 or more")
    files = [_place(name) for name in data.names]
    other = f"something else than copies of {pixels} pixels"
    claim_folder(out, "shrunk.json", {"pixels": pixels}, other)

    def write(number: int) -> None:
        image, file = data.images[number], out / files[number]
        if not _is_newer(file, image):
            small, note = _shrunk(read_image(image), pixels), PngInfo()
            note.add_text(ORIGINAL, original_hash(image))
            with whole_file(file) as partial:
                small.save(partial, format="PNG", pnginfo=note)

    threads = available_threads()
    done = ahead(write, range(len(data)), threads=threads, most=2 * threads)
    for count, _ in enumerate(done, 1):
        progress("shrinking", count, len(data))
    table = pd.DataFrame({"image": [str(file) for file in files], "label": label_texts(data)})
    for name, column in (("group", data.groups), ("split", data.splits)):
        if column is not None:
            table[name] = column
    for file in set((out / IMAGES).rglob("*.png")).difference(out / file for file in files):
        file.unlink()
    write_table(out / "labels.csv", table)
    return out / "labels.csv"


def _place(name: str) -> PurePosixPath:
    """Where an image goes, under its own name."""
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts or path.is_absolute() or PureWindowsPath(name).drive:
        raise DataError(f"{name}: a path out of the folder; give images inside it")
    return PurePosixPath(IMAGES, *path.parts[:-1], f"{path.name}.png")


def _is_newer(file: Path, image: ImageLike) -> bool:
    """Whether a file is there, and was written after the image was."""
    if not file.exists():
        return False
    if not isinstance(image, str | PathLike):
        return True
    original = split_frame(Path(image))[0]
    return original.exists() and original.stat().st_mtime_ns < file.stat().st_mtime_ns


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    scale = pixels / min(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
