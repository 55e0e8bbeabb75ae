"""Kvasir-SEG (Jha et al., MMM 2020): colonoscopy images of polyps, each with its mask.

The folder holds ``images`` and ``masks``, as the archive unpacks; an image and its mask have the
same name, apart from the suffix. There is only one class: the data set can be checked (``medept
check``) and embedded, but there is nothing to classify.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medept.data.folder_images import images_below
from medept.data.labelled_images import LabelledImages
from medept.data.sources.base import Source
from medept.errors import DataError

ORIGIN = "Kvasir-SEG is at https://datasets.simula.no/kvasir-seg"


class KvasirSEG(Source):
    """All images with their masks."""

    def home(self, folder: Path) -> Path:
        """The folder ``Kvasir-SEG``: the one that is given, or the one inside of it."""
        return folder / "Kvasir-SEG" if (folder / "Kvasir-SEG").is_dir() else folder

    def read(self, folder: Path) -> LabelledImages:
        images, masks = (_by_stem(folder, part) for part in ("images", "masks"))
        alone = sorted(images.keys() ^ masks.keys())
        if alone:
            lacking = [f"masks/{stem}" if stem in images else f"images/{stem}" for stem in alone]
            raise DataError(
                f"{folder}: {len(alone)} files are missing: {', '.join(lacking[:5])}"
                f"{', ...' if len(alone) > 5 else ''}. {ORIGIN}"
            )
        return LabelledImages(
            images=tuple(images.values()),
            names=tuple(image.name for image in images.values()),
            targets=np.zeros(len(images), dtype=np.int64),
            classes=("polyp",),
            masks=tuple(masks[stem] for stem in images),
        )


def _by_stem(folder: Path, part: str) -> dict[str, Path]:
    found = {file.stem: file for file in images_below(folder, folder / part)[0]}
    if not found:
        raise DataError(f"{folder}: no images in its folder {part}. {ORIGIN}")
    return found


SOURCES = (KvasirSEG("kvasir-seg", "Kvasir-SEG: polyps in colonoscopies, with masks; one class"),)
