"""ISIC 2018 task 3 (Codella et al. 2019; HAM10000, Tschandl et al. 2018): seven skin lesions.

The folder holds the unpacked archives: ``ISIC2018_Task3_Training_Input`` and
``..._GroundTruth``, the lesion groupings (beside the training labels or in the folder itself) and,
if wanted, ``ISIC2018_Task3_Validation_Input``, ``..._Test_Input`` and their ``..._GroundTruth``.
Groups are lesions, several of which have more than one image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medept.data.labelled_images import SPLIT_NAMES, LabelledImages
from medept.data.sources.base import Source, require
from medept.errors import DataError

ORIGIN = "ISIC 2018 task 3 is at https://challenge.isic-archive.com/data/#2018"
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


class ISIC2018(Source):
    """The training images, and those of validation and test if their labels are in the folder."""

    def read(self, folder: Path) -> LabelledImages:
        there = [part for part in ("Validation", "Test")
                 if (folder / f"ISIC2018_Task3_{part}_GroundTruth").is_dir()]  # fmt: skip
        parts = [_part(folder, part) for part in ("Training", *there)]
        table = pd.concat(parts, ignore_index=True)
        lesions = _lesions(folder)
        ids = table["image"].tolist()
        without = [name for name, split in zip(ids, table["split"], strict=True)
                   if split == "train" and name not in lesions]  # fmt: skip
        if without:
            raise DataError(f"{folder}: the lesion groupings lack {without[0]}; {ORIGIN}")
        return LabelledImages(
            images=tuple(table["file"]),
            names=tuple(file.name for file in table["file"]),
            targets=table[list(CLASSES)].to_numpy().argmax(axis=1).astype(np.int64),
            classes=CLASSES,
            groups=np.array([lesions.get(name, name) for name in ids]),
            splits=table["split"].to_numpy() if "Test" in there else None,
        )


def _part(folder: Path, part: str) -> pd.DataFrame:
    stem = f"ISIC2018_Task3_{part}"
    truth = folder / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv"
    require(folder, [truth], ORIGIN)
    table = _read(truth, ["image", *CLASSES])
    flags = table[list(CLASSES)].apply(pd.to_numeric, errors="coerce")
    wrong = ~(flags.isin((0, 1)).all(axis=1) & (flags.sum(axis=1) == 1)).to_numpy()
    if wrong.any():
        raise DataError(f"{truth}, row {wrong.argmax() + 2}: exactly one class must be 1")
    plain = table["image"].str.fullmatch(r"\w+").to_numpy(dtype=bool)
    if not plain.all():
        raise DataError(f"{truth}, row {plain.argmin() + 2}: not the name of an image")
    root = folder / f"{stem}_Input"
    files = [root / f"{name}.jpg" for name in table["image"]]
    require(folder, files, ORIGIN)
    table[list(CLASSES)] = flags
    table["file"] = pd.Series(files, index=table.index, dtype=object)
    table["split"] = SPLIT_NAMES[part.lower()]
    return table


def _lesions(folder: Path) -> dict[str, str]:
    name = "ISIC2018_Task3_Training_LesionGroupings.csv"
    places = [folder / name, folder / "ISIC2018_Task3_Training_GroundTruth" / name]
    file = next((place for place in places if place.is_file()), places[0])
    require(folder, [file], ORIGIN)
    table = _read(file, ["image", "lesion_id"])
    return dict(zip(table["image"], table["lesion_id"], strict=True))


def _read(file: Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error}); unpack it again") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"{file}: no column {missing[0]!r}; {ORIGIN}")
    return table


SOURCES = (
    ISIC2018("isic2018", "ISIC 2018 task 3: seven kinds of skin lesion; lesions are groups"),
)
