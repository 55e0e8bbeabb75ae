"""What a named data set is: read from the folder that it unpacks to, and nothing downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medept.data.table import LabelledImages
from medept.errors import DataError


@dataclass(frozen=True)
class Source:
    """A data set that is known by name; ``NAME:FOLDER`` reads it."""

    name: str
    summary: str

    def home(self, folder: Path) -> Path:
        """Where in the folder given its files are: the folder itself, or a known one inside."""
        return folder

    def read(self, folder: Path) -> LabelledImages:
        """All labelled images, with groups and splits where the data set has them.

        Raises:
            InputError: if a file is missing or has another form than the data set's.
        """
        raise NotImplementedError

    def official_list(self, folder: Path, shots: int | float | None, episode: str) -> Path:
        """The file that lists an official support set.

        Raises:
            InputError: if the data set has none, or not this one.
        """
        raise DataError(f"{self.name} has no official support sets: leave --episode out")


def require(folder: Path, files: Sequence[Path], origin: str) -> None:
    """Raise an InputError that names what is missing in ``folder``, and where it comes from."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        named = ", ".join(str(file.relative_to(folder)) for file in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{folder}: {len(missing)} of {len(files)} files are missing: {named}{more}. {origin}"
        )
    root = folder.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{file}: a link that leads out of {folder}; copy the file instead")
