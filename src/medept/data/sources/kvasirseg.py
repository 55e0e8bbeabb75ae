"""Kvasir-SEG (Jha et al., MMM 2020): polyps in colonoscopies, each picture with its mask.

The folder holds ``images`` and ``masks`` as the archive unpacks them; a picture and its mask have
one name, whatever their suffixes. There is one class, so the set can be looked through
(``medept check``) and embedded, but there is nothing to classify.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medept.data.folders import images_below
from medept.data.sources.base import Source
from medept.data.table import LabelledImages
from medept.errors import DataError

ORIGIN = "Kvasir-SEG is at https://datasets.simula.no/kvasir-seg"


class KvasirSEG(Source):
    """All pictures with their masks."""

    def home(self, folder: Path) -> Path:
        """The folder of both, given itself or the one that the archive is unpacked in."""
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
    found = {file.stem: file for file in images_below(folder, folder / part)}
    if not found:
        raise DataError(f"{folder}: no pictures in its folder {part}. {ORIGIN}")
    return found


SOURCES = (KvasirSEG("kvasir-seg", "Kvasir-SEG: polyps in colonoscopies, with masks; one class"),)
