"""Label Studio's exports in JSON, JSON-MIN and CSV: choices for each task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd

from medept.data.exports.label_cells import cell_text, label_table
from medept.errors import DataError

_PICTURES = ("image", "img", "image_url", "picture")
"""Usual names of what a task shows."""

_SERVED = ("/data/upload/", "/data/local-files/")


def is_form(table: pd.DataFrame) -> bool:
    """Whether a table has a column of images that Label Studio serves."""
    return any(
        name in table.columns and any(cell_text(cell).startswith(_SERVED) for cell in table[name])
        for name in _PICTURES
    )


def convert(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the names of files in the place of the addresses at which they are served."""
    columns = [name for name in _PICTURES if name in table.columns]
    return table.assign(
        **{name: [_file_name(cell_text(cell)) for cell in table[name]] for name in columns}
    )


def convert_tasks(path: Path, tasks: Any) -> pd.DataFrame:
    """Columns ``image`` and ``label``, from the choices of each task.

    Raises:
        DataError: if the content has another form, an image has not exactly one picture, or two
            annotations of a task differ.
    """
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _unknown_form(path)
    images = []
    for number, task in enumerate(tasks, start=1):
        try:
            images.append((_image(task), _labels(task)))
        except DataError as error:
            raise DataError(f"{path}, task {number}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _unknown_form(path) from error
    if len({name for name, _ in images}) < len(images):
        raise DataError(f"{path}: two tasks have the same image; remove one")
    return label_table(path, images, "choice")


def _unknown_form(path: Path) -> DataError:
    return DataError(
        f"{path}: not an export of Label Studio (JSON or JSON-MIN) with choices; export one, or "
        "give a table"
    )


def _image(task: dict[str, Any]) -> str:
    data = task.get("data", task)
    names = [data[key] for key in _PICTURES if key in data]
    if len(names) != 1 or not isinstance(names[0], str):
        raise DataError("it has no picture called 'image'; name it so, or give a table")
    name = _file_name(names[0])
    url = urlsplit(name)
    if url.scheme or url.netloc:
        raise DataError(f"its image is at {name[:80]}; download it, and give a table")
    return name


def _file_name(address: str) -> str:
    """The name of a file that Label Studio serves; of others the address as it is."""
    url = urlsplit(address)
    if local := parse_qs(url.query).get("d"):  # /data/local-files/?d=folder/a.png
        return local[0]
    if url.path.startswith("/data/upload/"):  # which puts 8 digits before a file's name
        return re.sub("^[0-9a-f]{8}-", "", unquote(url.path.rsplit("/", 1)[1]))
    return address


def _labels(task: dict[str, Any]) -> list[str]:
    if "annotations" not in task and "completions" not in task:  # JSON-MIN
        choice = task["choice"] if "choice" in task else task.get("choices", [])
        return _names(choice["choices"] if isinstance(choice, dict) else choice)
    found = []
    for annotation in task["annotations" if "annotations" in task else "completions"]:
        if annotation.get("was_cancelled"):
            continue
        results = [part for part in annotation["result"] if part.get("type") == "choices"]
        if annotation["result"] and not results:
            raise DataError("its annotation holds shapes and no choices; medept reads choices")
        if len({part.get("from_name") for part in results}) > 1:
            raise DataError("it has choices for several questions; export one, or give a table")
        found.append(sorted(name for part in results for name in _names(part["value"]["choices"])))
    if any(labels != found[0] for labels in found):
        raise DataError("its annotations differ; keep one")
    return found[0] if found else []


def _names(choices: Any) -> list[str]:
    names = [choices] if isinstance(choices, str) else list(choices)
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("choices are texts")
    return names
