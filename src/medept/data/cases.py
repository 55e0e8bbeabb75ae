"""Cases: what is classified as one, such as the images of a patient, a study, a slide or a volume.

A data set, and whatever a classifier is given, is a sequence of *items*: each is an image, or a
case of several. What needs the images themselves takes them one after the other
(:func:`images_of`), and the number of images of each item (:func:`sizes_of`) puts them together
again.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medept.data.images import MEMORY_FOR_DECODED_IMAGES, ImageLike, decode_images
from medept.errors import DataError


@dataclass(frozen=True)
class Case:
    """The images of one case, which have one label together.

    Attributes:
        images: one at least; anything that :func:`medept.data.images.read_image` accepts.
        names: what each is called in outputs.
        cut: how they were cut from a volume; empty where they were not.

    Raises:
        DataError: if there is no image, or not one name an image.

    >>> len(Case(images=("left.png", "right.png"), names=("left.png", "right.png")))
    2
    """

    images: tuple[ImageLike, ...]
    names: tuple[str, ...]
    cut: str = ""

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError("a case without images: give it one at least, or leave it out")
        if len(self.images) != len(self.names):
            raise DataError(f"a case of {len(self.images)} images, but {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.images)


Item = ImageLike | Case
"""What has one label: an image, or a case of several."""


def images_of(items: Sequence[Item]) -> list[ImageLike]:
    """All images of the items, one after the other.

    >>> images_of(["a.png", Case(("b.png", "c.png"), ("b", "c"))])
    ['a.png', 'b.png', 'c.png']
    """
    found: list[ImageLike] = []
    for item in items:
        found.extend(item.images if isinstance(item, Case) else [item])
    return found


def sizes_of(items: Sequence[Item]) -> np.ndarray:
    """(n,) the number of images of each item.

    >>> sizes_of(["a.png", Case(("b.png", "c.png"), ("b", "c"))]).tolist()
    [1, 2]
    """
    return np.array([len(x) if isinstance(x, Case) else 1 for x in items], dtype=np.int64)


def joined(items: Sequence[Item], names: Sequence[str]) -> Case:
    """One case of all images of the items.

    Args:
        items: images, or cases of several (such as volumes).
        names: what each image is called; cases have names of their own.
    """
    each = zip(items, names, strict=True)
    own = [x.names if isinstance(x, Case) else (name,) for x, name in each]
    cut = next((x.cut for x in items if isinstance(x, Case) and x.cut), "")
    return Case(tuple(images_of(items)), tuple(name for part in own for name in part), cut)


def without(items: Sequence[Item], left_out: Container[int]) -> dict[int, Item]:
    """The items of which an image is left, with those images alone, by their row.

    Args:
        left_out: numbers among all images, those of cases counted singly.

    >>> without(["a.png", Case(("b.png", "c.png"), ("b", "c")), "d.png"], {0, 2})
    {1: Case(images=('b.png',), names=('b',), cut=''), 2: 'd.png'}
    """
    found: dict[int, Item] = {}
    first = 0
    for row, item in enumerate(items):
        size = len(item) if isinstance(item, Case) else 1
        kept = [i for i in range(size) if first + i not in left_out]
        first += size
        if isinstance(item, Case) and 0 < len(kept) < size:
            images = tuple(item.images[i] for i in kept)
            found[row] = replace(item, images=images, names=tuple(item.names[i] for i in kept))
        elif kept:
            found[row] = item
    return found


def rows_of_cases(ids: Sequence[Any] | np.ndarray) -> dict[str, list[int]]:
    """The rows of each case, by its id; cases in the order of their first row.

    Raises:
        DataError: if an id is empty.

    >>> rows_of_cases(["b", "a", "b"])
    {'b': [0, 2], 'a': [1]}
    """
    found: dict[str, list[int]] = {}
    for row, case in enumerate(ids):
        if case is None or case != case or str(case) == "":
            raise DataError(f"image {row} (from 0) has no case; give it one")
        found.setdefault(str(case), []).append(row)
    return found


def gather(images: Sequence[Item], ids: Sequence[Any] | np.ndarray) -> list[Case]:
    """The cases that images belong to, in the order of their first image.

    Args:
        images: n images.
        ids: (n,) the case of each.

    Raises:
        DataError: if there is not one id an image, or an image is a case already.

    >>> [case.images for case in gather(["1.png", "2.png", "3.png"], ["b", "a", "b"])]
    [('1.png', '3.png'), ('2.png',)]
    """
    if len(ids) != len(images):
        raise DataError(f"{len(images)} images, but {len(ids)} ids of cases: give one an image")
    single = [image for image in images if not isinstance(image, Case)]
    if len(single) < len(images):
        raise DataError("some images are cases already: leave cases= out")
    return [
        Case(tuple(single[i] for i in rows), tuple(name_of(single[i], i) for i in rows))
        for rows in rows_of_cases(ids).values()
    ]


def name_of(image: ImageLike, row: int) -> str:
    """What an image is called: its path, or else its number."""
    return f"image {row}" if isinstance(image, np.ndarray) else str(image)


def one_a_case(values: np.ndarray, ids: Sequence[Any] | np.ndarray, what: str) -> np.ndarray:
    """The values (m, ...) of m cases, from values given for each case or for each of n images.

    Args:
        values: (m, ...) in the order of the cases' first images, or (n, ...).
        ids: (n,) the case of each image.
        what: the values are, for messages.

    Raises:
        DataError: if the number is another, or images of a case differ.

    >>> one_a_case(np.array([0, 1, 0]), ["b", "a", "b"], "labels").tolist()
    [0, 1]
    """
    cases = rows_of_cases(ids)
    if len(values) == len(cases) != len(ids):
        return values
    if len(values) != len(ids):
        raise DataError(
            f"{len(values)} {what} for {len(ids)} images of {len(cases)} cases: give one a case "
            "(in the order of their first images), or one an image"
        )
    for case, rows in cases.items():
        if any(not np.array_equal(values[row], values[rows[0]]) for row in rows):
            raise DataError(f"case {case}: its images have different {what}; give them one")
    return values[[rows[0] for rows in cases.values()]]


def decode_items(
    items: Sequence[Item], memory: int = MEMORY_FOR_DECODED_IMAGES
) -> tuple[Item, ...]:
    """The items with their images decoded, as :func:`medept.data.images.decode_images` does."""
    decoded = iter(decode_images(images_of(items), memory))
    return tuple(
        replace(x, images=tuple(next(decoded) for _ in x.images))
        if isinstance(x, Case)
        else next(decoded)
        for x in items
    )
