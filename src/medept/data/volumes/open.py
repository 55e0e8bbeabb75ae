"""The voxels of whatever kind of volume a path names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medept.data.volumes.nifti import open_nifti
from medept.data.volumes.series import open_series
from medept.data.volumes.volume import Volume
from medept.errors import DataError, InputError


def open_values(path: Path) -> Volume:
    """The voxels of a NIfTI file or of a folder of one DICOM series.

    Raises:
        InputError: if it cannot be read as one volume; the message names it.
    """
    with naming(path):
        return open_series(path) if path.is_dir() else open_nifti(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make whatever goes wrong while a volume is read an error that names it."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such volume; check the path") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check it") from error
    except Exception as error:  # a parser may raise anything for damaged bytes
        raise DataError(f"{path}: damaged ({type(error).__name__}); copy it again") from error
