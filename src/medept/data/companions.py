"""Files that belong to a picture (masks, overlays, thumbnails), and those that systems make.

A file belongs to a picture if its name is that of the picture and one word more, and the picture is
beside it: ``1_mask.png`` beside ``1.png``, or ``masks/1.png`` beside ``images/1.png``. A folder of
pictures that is called ``mask`` stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from medept.data.formats import long_suffix

_WORDS = {
    "mask": "mask masks msk gt groundtruth ground_truth roi",
    "segmentation": "seg segm segmentation segmentations segmented",
    "annotation": "annotation annotations annotated annot label labels labelled superpixels",
    "overlay": "overlay overlays overlaid contour contours outline outlines bbox bboxes",
    "heat map": "heatmap heatmaps heat_map cam gradcam saliency",
    "thumbnail": "thumb thumbs thumbnail thumbnails preview previews",
}
COMPANION_KINDS = frozenset(_WORDS)
"""What a file that belongs to a picture may be."""

_KINDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_WORD = "|".join(sorted(_KINDS, key=len, reverse=True))
_BETWEEN = r"[ _.\-()\[\]]"

_AFTER = re.compile(
    rf"(.+?)(?P<gap>{_BETWEEN}*)(?P<word>{_WORD})(?P<end>{_BETWEEN}*\d*{_BETWEEN}*)", re.IGNORECASE
)
_BEFORE = re.compile(rf"(?P<rest>({_WORD}){_BETWEEN}+)(.+)", re.IGNORECASE)
_SMALLER = re.compile(r"(.+)(?P<rest>[-_]\d{2,4}x\d{2,4})")

_PICTURE_FOLDERS = frozenset(
    {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "original",
     "originals", "raw", "scan", "scans", "frame", "frames", "jpegimages"}
)  # fmt: skip

SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "__macosx",
     "__pycache__", "$recycle.bin", "system volume information", "lost+found",
     "network trash folder", "temporary items"}
)  # fmt: skip
"""Folders that systems and network disks make, in small letters."""

SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
"""Files that systems make, in small letters; others begin with a dot."""


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or made by a system, and so no class.

    >>> is_system_folder("@eaDir"), is_system_folder(".git"), is_system_folder("mask")
    (True, True, False)
    """
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def companions(
    images: Iterable[Path], top: Path, unread: Iterable[Path] = ()
) -> dict[Path, tuple[str, str]]:
    """The files that belong to others: what each is, and the pattern of its name.

    Args:
        images: all images below ``top``.
        top: the folder that was asked for, which is never taken for one of masks.
        unread: pictures in formats that are not read, to which images may belong too.

    >>> files = [Path("a/1.png"), Path("a/1_mask.png"), Path("a/2_mask.png"), Path("mask/1.png")]
    >>> [(file.name, *found) for file, found in companions(files, Path(".")).items()]
    [('1_mask.png', 'mask', '..._mask.png')]
    """
    images = list(images)
    names: dict[Path, set[str]] = {}
    for image in (*images, *unread):
        own = _stem(image).casefold(), image.name.casefold()
        names.setdefault(image.parent, set()).update(own)
    beside = {place.parent: names.get(place.parent, set()).copy() for place in names}
    for place, inside in names.items():
        if place.name.casefold() in _PICTURE_FOLDERS:
            beside[place.parent] |= inside
    found = {}
    for image in images:
        readings = list(_readings(image))
        for base, kind, pattern in readings:
            if base in names[image.parent]:
                found[image] = kind, pattern
                break
        else:
            kind = _KINDS.get(image.parent.name.casefold(), "")
            bases = {_stem(image).casefold(), *(base for base, _, _ in readings)}
            if kind and image.parent != top and bases & beside[image.parent.parent]:
                found[image] = kind, f"{image.parent.name}/..."
    return found


def looks_like_companion(image: Path) -> bool:
    """Whether a name ends like that of a mask and such, with something before it.

    >>> looks_like_companion(Path("7_mask.png")), looks_like_companion(Path("mask.png"))
    (True, False)
    """
    found = _AFTER.fullmatch(_stem(image))
    return found is not None and found["gap"] != ""


def image_and_mask_folders(stems: dict[str, set[str]]) -> tuple[str, str] | None:
    """Of folders taken for classes, one of pictures and one of their masks, if there are such.

    Args:
        stems: the stems of the files in each folder, by its name.

    >>> image_and_mask_folders({"images": {"1", "2"}, "masks": {"1", "2"}})
    ('images', 'masks')
    >>> image_and_mask_folders({"no_mask": {"1", "2"}, "mask": {"1", "2"}})
    """
    for pictures, inside in stems.items():
        for other, theirs in stems.items():
            if (
                pictures.casefold() in _PICTURE_FOLDERS
                and other.casefold() in _KINDS
                and 2 * len(inside & theirs) > len(theirs)
            ):
                return pictures, other
    return None


def _stem(image: Path) -> str:
    """The name without its suffix, which may be that of a packed volume."""
    return image.name[: -len(long_suffix(image))] if image.suffix else image.name


def _readings(image: Path) -> Iterable[tuple[str, str, str]]:
    """For each way to read a name as that of a companion: whose it is, what it is, the pattern."""
    if found := _AFTER.fullmatch(_stem(image)):
        for i in range(len(found["gap"]) + 1):  # a bracket in it may be of the picture's name
            base, kind = found[1] + found["gap"][:i], _KINDS[found["word"].lower()]
            yield base.casefold(), kind, f"...{image.name[len(base) :]}"
    if found := _BEFORE.fullmatch(_stem(image)):
        yield found[3].casefold(), _KINDS[found[2].lower()], f"{found['rest']}...{image.suffix}"
    if found := _SMALLER.fullmatch(_stem(image)):
        yield found[1].casefold(), "thumbnail", f"...{found['rest']}{image.suffix}"
