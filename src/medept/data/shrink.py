"""Small copies of the images of a data set, which fits and benchmarks read faster."""

from __future__ import annotations

from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medept.data.cases import images_of, sizes_of
from medept.data.dicom.files import split_frame
from medept.data.image_hashes import ORIGINAL, original_hash
from medept.data.images import ImageLike, read_image
from medept.data.labelled_images import LabelledImages, label_texts
from medept.data.threads import available_threads, prefetch
from medept.errors import DataError, SettingsError
from medept.files import claim_folder, whole_file, write_table
from medept.progress import Progress, silent

IMAGES = "images"


def write_shrunk(
    data: LabelledImages, out: Path, *, pixels: int = 512, progress: Progress = silent
) -> Path:
    """Write images as small 8-bit RGB PNG files, and ``labels.csv`` with labels, groups and splits.

    Each copy keeps the hash of its original (:func:`medept.data.image_hashes.original_hash`), so
    that an adapter fitted to copies is not evaluated on their originals. A second call resumes an
    interrupted one: it keeps the copies that are there, makes those anew whose originals have
    changed since, and removes those whose originals are no longer in the data.

    Args:
        out: a folder that is new, empty, or was written by this function with the same ``pixels``.
        pixels: most pixels along the shorter side; smaller images keep their size.

    Returns:
        The path of ``labels.csv``.

    Raises:
        SettingsError: if ``pixels`` is below 1.
        DataError: if ``out`` holds anything else, or an image cannot be read.
    """
    if pixels < 1:
        raise SettingsError(f"pixels={pixels}: give 1 or more")
    single = data.by_image()
    images, files = images_of(single.images), [_copy_path(name) for name in single.names]
    other = f"something other than copies of {pixels} pixels"
    claim_folder(out, "shrunk.json", {"pixels": pixels}, other)

    def write(number: int) -> None:
        image, file = images[number], out / files[number]
        if not _is_newer(file, image):
            small, note = _shrunk(read_image(image), pixels), PngInfo()
            note.add_text(ORIGINAL, original_hash(image))
            with whole_file(file) as partial:
                small.save(partial, format="PNG", pnginfo=note)

    threads = available_threads()
    done = prefetch(write, range(len(images)), threads=threads, limit=2 * threads)
    for count, _ in enumerate(done, 1):
        progress("shrinking", count, len(images))
    table = pd.DataFrame({"image": [str(file) for file in files], "label": label_texts(single)})
    if data.has_cases:
        table["case"] = np.repeat(data.names, sizes_of(data.images))
    for name, column, given in (
        ("group", single.groups, data.groups is not None),
        ("split", single.splits, data.splits is not None),
    ):
        if given:
            table[name] = column
    for file in set((out / IMAGES).rglob("*.png")).difference(out / file for file in files):
        file.unlink()
    write_table(out / "labels.csv", table)
    return out / "labels.csv"


def _copy_path(name: str) -> PurePosixPath:
    """The path of an image's copy in the new folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if ".." in path.parts or path.is_absolute() or PureWindowsPath(name).drive:
        raise DataError(f"{name}: a path out of the folder; give images inside it")
    return PurePosixPath(IMAGES, *path.parts[:-1], f"{path.name}.png")


def _is_newer(file: Path, image: ImageLike) -> bool:
    """Whether a copy exists and was written after its original."""
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
