"""Image lists: text files with one line per image, as few-shot challenges publish them.

``a name.png 1`` gives a class index; ``a name.png 0,1,0`` or ``a name.png 0 1 0`` one number for
each label. Names may contain spaces. An image that was drawn for several labels is listed several
times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medept.data.spelling import clean
from medept.errors import DataError
from medept.files import write_text


def read_list(
    file: Path, classes: Sequence[str], *, multilabel: bool
) -> dict[int, tuple[str, np.ndarray]]:
    """The image name in NFC and the target of each line, by line number.

    A target is a class index, shape (), or 0 and 1 for each label, shape (C,); int64.

    Raises:
        DataError: if the file cannot be read, or a line has another form; the message names both.

    >>> _ = Path("list.txt").write_text("first scan.png 1\\nsecond.png 0\\n")
    >>> read_list(Path("list.txt"), ("benign", "malignant"), multilabel=False)
    {1: ('first scan.png', array(1)), 2: ('second.png', array(0))}
    """
    count = len(classes)
    label = rf"[01](?:[ ,][01]){{{count - 1}}}" if multilabel else "[0-9]{1,4}"
    expected = f"{count} labels of 0 and 1" if multilabel else f"a class from 0 to {count - 1}"
    rows = {}
    for number, line in enumerate(read_lines(file), start=1):
        found = re.fullmatch(rf"(.+?) +({label})", line)
        values = [int(value) for value in re.split("[ ,]", found[2])] if found else [count]
        if found is None or (not multilabel and values[0] >= count):
            raise DataError(
                f"{file}, line {number}: {line[:80]!r} is not a name, a space, and {expected}"
            )
        rows[number] = (clean(found[1]), np.array(values if multilabel else values[0]))
    return rows


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, without spaces at their ends and without empty lines at the end.

    Raises:
        DataError: if the file is missing, empty, or not UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such list; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: cannot be read as a list ({error}); save it as UTF-8 text"
        ) from error
    text = "\n".join(line.strip() for line in lines).rstrip()
    if not text:
        raise DataError(f"{file}: an empty list; it needs one line per image")
    return text.split("\n")


def write_list(file: Path, names: Iterable[str], targets: np.ndarray) -> None:
    """Write names and targets, which :func:`read_list` reads; the file appears whole or not at all.

    Args:
        targets: (n,) class indices, or (n, C) of 0 and 1.

    Raises:
        DataError: if a name has several lines, or begins or ends with a space.
    """
    lines = []
    for name, target in zip(names, targets, strict=True):
        if name != name.strip() or len(name.splitlines()) != 1:
            raise DataError(f"{name!r}: a name in a list is one line, without spaces at its ends")
        lines.append(f"{name} {','.join(str(int(value)) for value in np.atleast_1d(target))}\n")
    write_text(file, "".join(lines))
