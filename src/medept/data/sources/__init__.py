"""Data sets that are known by name; one file each. ``NAME:FOLDER`` stands wherever data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medept.data.sources import isic2018, kvasirseg, medfmc, medmnist
from medept.data.sources.base import Source
from medept.data.table import LabelledImages, read_dataset
from medept.errors import DataError

SOURCES = {
    source.name: source
    for module in (medfmc, isic2018, kvasirseg, medmnist)
    for source in module.SOURCES
}


def named_source(text: str | Path) -> tuple[Source, Path] | None:
    """``NAME:FOLDER`` as the data set of that name and where its files are; None for anything else.

    Raises:
        InputError: if the folder does not exist.
    """
    name, colon, place = str(text).partition(":")
    if not colon or name not in SOURCES:
        return None
    folder = Path(place)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {name} is read from the one it unpacks to")
    return SOURCES[name], SOURCES[name].home(folder)


def open_dataset(text: str | Path, **columns: Any) -> LabelledImages:
    """Labelled images of ``NAME:FOLDER``, or of a table or folder.

    Args:
        columns: what :func:`medept.data.table.read_dataset` takes beside the path.

    Raises:
        InputError: if something is missing or cannot be used, or columns are named for a data set
            that knows its own.
    """
    found = named_source(text)
    if found is None:
        return read_dataset(text, **columns)
    source, folder = found
    given = [name for name, value in columns.items() if name.endswith(("column", "root")) and value]
    if given:
        raise DataError(f"{source.name} knows its own: leave out {', '.join(given)}")
    data, classes = source.read(folder), columns.get("classes")
    if classes is not None and tuple(classes) != data.classes:
        raise DataError(
            f"{source.name} has the classes {', '.join(data.classes)}, and not {', '.join(classes)}"
        )
    return data


def official_list(text: str | Path, shots: int | float | None, episode: str) -> Path:
    """The list of a support set: a file of that name, or the official one of a named data set.

    Raises:
        InputError: if there is neither.
    """
    if Path(episode).is_file():
        return Path(episode)
    found = named_source(text)
    if found is None:
        raise DataError(f"{episode}: no such list of a support set; `medept episodes` writes them")
    source, folder = found
    return source.official_list(folder, shots, episode)
