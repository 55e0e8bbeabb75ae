"""What format a file has, by its first bytes, and which formats are read."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, features

from medept.data.dicom.files import is_dicom
from medept.errors import DataError, ResourceError

AVIF = features.check("avif")
"""Whether this Pillow reads AVIF."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc",
     ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"}
    | ({".avif"} if AVIF else set())
)  # fmt: skip
"""A file with one of these is an image; if it cannot be read, that is an error."""

NIFTI_SUFFIXES = (".nii", ".nii.gz")

FORMATS: tuple[str, ...] = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "GIF", "PPM",
                           *(("AVIF",) if AVIF else ()))  # fmt: skip
"""What Pillow may open, whatever the suffix says. EPS is not among them: it can run a program."""

HEIF_EXTRA = "pip install 'medept[heic]'"

_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "WEBP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8[79]a",
    "PPM": rb"P[1-6]\s+(#[^\n]*\s+)*\d+\s",
    "AVIF": rb".{4}ftyp(avif|avis|(mif1|msf1).{0,40}avi[fs])",
    "HEIF": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
}
"""Patterns at the start of a file; the first that fits counts."""

_HEADER = 2**20
"""Bytes within which a JPEG 2000 file says what samples it has, after profiles and texts."""

_VOLUME = "save the volume as NIfTI"
_SLIDE = "whole slides: `medept tiles`"
_RAW = "camera raw is not read; develop it"
_VIDEO = "video is not read; save its frames"
_ARCHIVE = "unpack it"
_CONVERT = "not read; save it as PNG"
_OTHER_FORMATS = {
    _VOLUME: ".nrrd .nhdr .mha .mhd .mgz .mgh .mnc .npy .npz .mat .h5 .hdf5",
    _SLIDE: ".svs .ndpi .scn .mrxs .vms .vmu .bif .svslide .qptiff .czi",
    _RAW: ".dng .nef .nrw .cr2 .cr3 .crw .arw .sr2 .orf .pef .rw2 .raf .raw",
    _VIDEO: ".mp4 .m4v .mov .avi .mkv .wmv .mpg .mpeg .webm",
    _ARCHIVE: ".zip .tar .tgz .tar.gz .gz .bz2 .xz .7z .rar",
    _CONVERT: ".pdf .svg .eps .ps .psd .exr .hdr .jxl .jxr .jls .ico .tga .pcx .avif .lsm .stk",
}
_WHY_NOT = {suffix: why for why, suffixes in _OTHER_FORMATS.items() for suffix in suffixes.split()}
"""Why files with a suffix are not read. Some are TIFF inside, with only a thumbnail to be found."""


def format_of(head: bytes) -> str:
    """The format of a file by its first bytes (64 are enough); empty if it is none of those known.

    >>> format_of(b"GIF89a"), format_of(b"BMI,label")
    ('GIF', '')
    """
    for name, pattern in _SIGNATURES.items():
        if re.match(pattern, head, re.DOTALL):
            return name
    return ""


def refuse_deep_jpeg(file: BinaryIO) -> None:
    """Refuse JPEG of more than 8 bits, of which Pillow says that it is no image.

    Args:
        file: opened; its position does not matter before, and is anywhere after.

    Raises:
        DataError: naming the bits.
    """
    file.seek(2)
    while (head := file.read(4))[:1] == b"\xff" and len(head) == 4:
        if head[1] == 0xFF:  # padding before a marker
            file.seek(-3, 1)
            continue
        if head[1] in range(0xC0, 0xD0) and head[1] not in (0xC4, 0xC8, 0xCC):
            bits = file.read(1)
            if bits and bits[0] != 8:
                raise DataError(f"JPEG of {bits[0]} bits is not read; save it as PNG")
            return
        file.seek(max(0, int.from_bytes(head[2:], "big") - 2), 1)


def refuse_deep_jpeg2000(file: BinaryIO) -> None:
    """Refuse JPEG 2000 colours of more than 8 bits: Pillow turns what is nearly white to black.

    Args:
        file: opened; its position does not matter before, and is anywhere after.

    Raises:
        DataError: if it has such colours; the message names them.
    """
    file.seek(0)
    found = re.search(rb"\xff\x4f\xff\x51.{36}(..)(.)", file.read(_HEADER), re.DOTALL)
    if found is None:  # damaged: Pillow says how
        return
    channels, bits = int.from_bytes(found[1], "big"), (found[2][0] & 0x7F) + 1
    if channels > 1 and bits > 8:
        raise DataError(
            f"JPEG 2000 of {channels} x {bits} bits is not read; save it as PNG or TIFF"
        )


def long_suffix(path: Path) -> str:
    """The suffix in small letters, with the one before it if it is that of a packed file.

    >>> long_suffix(Path("scan.1.NII.gz")), long_suffix(Path("scan.1.png"))
    ('.nii.gz', '.png')
    """
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return (
        inner + suffix if suffix in (".gz", ".bz2", ".xz") and inner in (".nii", ".tar") else suffix
    )


def is_nifti(path: Path) -> bool:
    """Whether a file is a NIfTI volume, by its suffix.

    >>> is_nifti(Path("scan.1.NII.gz")), is_nifti(Path("scan.gz"))
    (True, False)
    """
    return long_suffix(path) in NIFTI_SUFFIXES


def why_no_image(path: Path) -> str | None:
    """None if a file in a folder is taken for an image, by its suffix or content; else the reason.

    The reason is empty where there is nothing to say, as of a text file.
    """
    suffix = long_suffix(path)
    if suffix in IMAGE_SUFFIXES or is_nifti(path) or is_dicom(path):
        return None
    if suffix in _WHY_NOT:
        return _WHY_NOT[suffix]
    if not path.is_file():
        return "a broken link or a device"
    try:
        with path.open("rb") as file:
            found = format_of(file.read(64))
    except OSError:
        return "cannot be opened; check its permissions"
    if found == "HEIF":
        return _why_no_heif(path)
    if found == "AVIF" and not AVIF:
        return _CONVERT
    return None if found else ""


def _why_no_heif(path: Path) -> str | None:
    try:
        register_heif()
        with Image.open(path, formats=("HEIF",)):
            return None
    except ResourceError:
        return HEIF_EXTRA
    except Exception:  # a decoder may raise anything for damaged bytes
        return "damaged"


@cache
def register_heif() -> None:
    """Let Pillow open HEIC and other HEIF files.

    Raises:
        ResourceError: if pillow-heif is missing.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ResourceError(f"HEIC needs pillow-heif: {HEIF_EXTRA}") from error
    pillow_heif.register_heif_opener()
