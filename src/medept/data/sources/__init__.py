"""Data sets that medept knows by name, one module each: ``NAME:FOLDER`` may stand for any data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.data.sources import isic2018, kvasirseg, medfmc, medmnist
from medept.data.sources.base import Source
from medept.errors import DataError

SOURCES = {
    source.name: source
    for module in (medfmc, isic2018, kvasirseg, medmnist)
    for source in module.SOURCES
}


ALLOWED = ("classes", "task", "plane", "slices", "window", "channels")
"""What may be given for a named data set, too."""


def named_source(text: str | Path) -> tuple[Source, Path] | None:
    """The data set of ``NAME:FOLDER`` and the folder of its files; None for any other text.

    Raises:
        DataError: if the folder does not exist.

    >>> Path("MedFMC").mkdir()
    >>> source, folder = named_source("medfmc-colon:MedFMC")
    >>> source.classes, folder.name
    (('negative', 'positive'), 'MedFMC')
    """
    name, colon, place = str(text).partition(":")
    if not colon or name not in SOURCES:
        return None
    folder = Path(place)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that {name} unpacks to")
    return SOURCES[name], SOURCES[name].home(folder)


def open_dataset(text: str | Path, **columns: Any) -> LabelledImages:
    """Labelled images of ``NAME:FOLDER``, a table or a folder.

    Args:
        columns: what :func:`medept.data.dataset.read_dataset` takes besides the path.

    Raises:
        DataError: if something is missing or cannot be used, or columns are given for a named data
            set, which has its own.
    """
    found = named_source(text)
    if found is None:
        return read_dataset(text, **columns)
    source, folder = found
    given = [name for name, value in columns.items() if name not in ALLOWED and value]
    if given:
        named = ", ".join(f"{name}=" for name in given)
        raise DataError(f"{source.name} has its own columns: leave out {named}")
    data, classes = source.read(folder), columns.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise DataError(
            f"{source.name} has the classes {', '.join(data.classes)}, and not {', '.join(classes)}"
        )
    if columns.get("task") not in (None, data.task):
        raise DataError(f"{source.name} is {data.task}: leave task= out")
    return data


def official_list(text: str | Path, shots: int | float | None, episode: str) -> Path:
    """The file that lists a support set: ``episode`` itself, or the official one of that name.

    Args:
        text: the data set, ``NAME:FOLDER`` if the list is an official one.
        shots: of an official list.
        episode: a file, or a name such as ``exp1``.

    Raises:
        DataError: if there is no such list.
    """
    if Path(episode).is_file():
        return Path(episode)
    found = named_source(text)
    if found is None:
        raise DataError(f"{episode}: no such file; `medept episodes` writes lists of support sets")
    source, folder = found
    return source.official_list(folder, shots, episode)
