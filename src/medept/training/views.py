"""Images as an encoder sees them: decoded once, and random views that a seed determines.

View v of image i is a function of (seed, i, v) alone. Every method therefore trains on the same
views in the same order, and a view that was encoded once never has to be encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medept.data.images import MEMORY_FOR_DECODED_IMAGES, ImageLike, read_image
from medept.encoders.preprocessing import Preprocessing

CUT_FROM = 2.0
"""Random views of large images are cut from a reduced one, in which the smallest crop has at least
so many times the encoder's pixels a side: of 12 megapixels, at 224 pixels, means of 4 x 4."""

_DRAWING = Lock()
"""Held while a view is drawn: torchvision draws from the one generator of the process."""


class Views:
    """A sequence of images, and their views.

    Args:
        images: paths, PIL images or arrays.
        preprocessing: the encoder's.
        crop_scale: see :class:`medept.training.recipes.Recipe`.
        seed: determines all random views.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        preprocessing: Preprocessing,
        *,
        crop_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._images, self.seed = images, seed
        self.numbers = torch.arange(len(images))
        self._decoded = _Decoded()
        self._evaluation = preprocessing.evaluation()
        self._training = preprocessing.training(crop_scale)
        self._least = [CUT_FROM * side / crop_scale**0.5 for side in preprocessing.size]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def total(self) -> int:
        """The number of images of the whole set, of which this may be a part."""
        return len(self._images)

    def part(self, rows: np.ndarray | None = None) -> Views:
        """Some of the images, or the whole set: with the same views, decoded once for all."""
        part = copy(self)
        whole = torch.arange(self.total)
        part.numbers = whole if rows is None else self.numbers[torch.as_tensor(rows)]
        return part

    def decoded_bytes(self) -> int:
        """Of decoded images that are kept in the end, if all are as large as the first."""
        first = self._read(int(self.numbers[0]), whole=False)
        return min(self.total * 3 * first.width * first.height, MEMORY_FOR_DECODED_IMAGES)

    def plain(self, index: int) -> Tensor:
        """The image as the encoder is evaluated on it: (3, H, W)."""
        return self._evaluation(self._read(int(self.numbers[index]), whole=True))

    def random(self, index: int, view: int) -> Tensor:
        """Random view number ``view`` of the image: (3, H, W)."""
        return self._draw(int(self.numbers[index]), [view])[0]

    def first(self, index: int, count: int) -> Tensor:
        """The first ``count`` random views of the image, which is decoded once: (V, 3, H, W)."""
        return torch.stack(self._draw(int(self.numbers[index]), range(count)))

    def random_batch(self, rows: Tensor, view: int) -> Tensor:
        """That view of several images: (B, 3, H, W)."""
        return torch.stack([self.random(i, view) for i in rows.tolist()])

    def _draw(self, number: int, views: Iterable[int]) -> list[Tensor]:
        image = self._read(number, whole=False)
        made = []
        for view in views:
            with _DRAWING, torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(_mix(self.seed, number, view))
                drawn = self._training(image)
            made.append(drawn())
        return made

    def _read(self, number: int, *, whole: bool) -> Image.Image:
        image = None if whole else self._decoded.get((number, True))
        if image is None:
            source = self._images[number]
            image = self._decoded.get((number, False)) or read_image(source)
            height, width = self._least
            factor = int(min(image.height / height, image.width / width))
            reduced = factor > 1 and not whole
            if reduced:
                image = image.reduce(factor)
            if reduced or not isinstance(source, np.ndarray):  # else it is in memory already
                self._decoded.keep((number, reduced), image)
        return image


class _Decoded(dict[tuple[int, bool], Image.Image]):
    """Decoded images by number and whether reduced, and the bytes that there is room for still."""

    room = MEMORY_FOR_DECODED_IMAGES

    def keep(self, key: tuple[int, bool], image: Image.Image) -> None:
        """If it is not there yet, and there is room."""
        size = 3 * image.width * image.height
        if key not in self and size <= self.room:
            self[key] = image
            self.room -= size


def _mix(*numbers: int) -> int:
    """One seed of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    return mixed
