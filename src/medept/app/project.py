"""What a project holds: its images, its labels, its settings and its fits, in plain files."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medept.errors import DataError, problems
from medept.files import write_text
from medept.labelling.pool import Pool
from medept.labelling.store import LabelStore

ROUND = 20
"""Images that are suggested at once."""


class Settings(BaseModel):
    """The content of ``project.json``.

    Attributes:
        classes: their names, in the order of the keys 1 to 9.
        show_guess: whether the page shows what the classifier thinks before a label is given.
        encoder: which the page fits with.
        symmetry: as in :class:`medept.FewShotClassifier`.
    """

    model_config = ConfigDict(extra="forbid")

    classes: list[str] = []
    show_guess: bool = False
    encoder: str = "embedded"
    symmetry: str = "auto"


class Project:
    """A pool of images and the folder beside it, in which all that is done is kept.

    Args:
        pool: the images or cases.
        folder: the project; it is made if it is missing.

    Raises:
        DataError: if a file of the project is damaged.
        OSError: if the folder cannot be written.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.settings = _read_settings(folder / "project.json")
        self.save()  # says now, and not after an hour of labelling, that it cannot be written
        self.store = LabelStore(folder / "labels.csv")
        self._lock = threading.Lock()
        self.suggested: list[int] = []

    def save(self) -> None:
        """Write the settings."""
        write_text(self.folder / "project.json", self.settings.model_dump_json(indent=2) + "\n")

    def add_classes(self, names: list[str]) -> None:
        """Add classes whose names are new, and keep them.

        Raises:
            DataError: if a name cannot be used.
        """
        for name in names:
            if name[:1] in tuple("=+-@") or "|" in name or any(ord(x) < 32 for x in name):
                raise DataError(f"{name!r}: a class begins with a letter or digit, and has no |")
        self.settings.classes += [x for x in dict.fromkeys(names) if x not in self.settings.classes]
        self.save()

    def queue(self, reader: str) -> list[int]:
        """Rows to label: those suggested, and then all others in a fixed random order.

        Those that the reader has answered are not among them.
        """
        answered = self.store.of(reader)
        order = np.random.default_rng(0).permutation(len(self.pool)).tolist()
        with self._lock:
            rows = list(dict.fromkeys([*self.suggested, *order]))
        return [row for row in rows if self.pool.subjects[row].name not in answered]

    def suggest(self, rows: list[int]) -> None:
        """Put rows at the head of the queue."""
        with self._lock:
            self.suggested = rows

    @property
    def fits(self) -> list[Path]:
        """The folders of fits, the latest last."""
        found = (self.folder / "fits").glob("fit-*")
        whole = [path for path in found if (path / "adapter.json").exists()]
        return sorted(whole, key=lambda path: int(path.name.removeprefix("fit-")))

    @property
    def checks(self) -> list[Path]:
        """The pages of data checks."""
        return list((self.folder / "checks").glob("check-*/check.html"))

    def next_folder(self, kind: str) -> Path:
        """A name that is free: ``fits/fit-3`` for ``fit``."""
        place = self.folder / f"{kind}s"
        numbers = [int(m[1]) for x in place.glob("*") if (m := re.match(rf"{kind}-(\d+)", x.name))]
        return place / f"{kind}-{max(numbers, default=0) + 1}"


def project_folder(source: Path) -> Path:
    """The folder of the project of a folder or table: beside it, ``scans-medept``."""
    place = source.resolve()
    return place.with_name(f"{place.stem if place.is_file() else place.name}-medept")


def _read_settings(file: Path) -> Settings:
    if not file.exists():
        return Settings()
    try:
        return Settings.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"{file}: {problems(error)}; mend it or move it away") from error
