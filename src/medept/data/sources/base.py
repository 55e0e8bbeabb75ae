"""What a named data set has to offer. It is read from a folder; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medept.data.labelled_images import LabelledImages
from medept.errors import DataError


@dataclass(frozen=True)
class Source:
    """A data set that ``NAME:FOLDER`` reads.

    Attributes:
        name: what stands before the colon.
        summary: one line for `medept datasets`.
    """

    name: str
    summary: str

    def home(self, folder: Path) -> Path:
        """The folder of its files: the one that is given, or a known one inside of it."""
        return folder

    def read(self, folder: Path) -> LabelledImages:
        """All labelled images, with groups and splits where the data set has them.

        Raises:
            DataError: if a file is missing or does not have the data set's form.
        """
        raise NotImplementedError

    def official_list(self, folder: Path, shots: int | float | None, episode: str) -> Path:
        """The file that lists an official support set.

        Raises:
            DataError: if the data set has none, or not this one.
        """
        raise DataError(f"{self.name} has no official support sets: leave episode= out")


def require(folder: Path, files: Sequence[Path], origin: str) -> None:
    """Check that files are in ``folder``.

    Raises:
        DataError: that names the missing files and says where the data set comes from, or names a
            link that leads out of the folder.
    """
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
