"""Images as an encoder sees them: decoded once, and random views that a seed determines.

View v of image i is a function of (seed, i, v) alone. Every method therefore trains on the same
views in the same order, and a view that was encoded once never has to be encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from medept.data.images import ImageLike, read_image
from medept.encoders import Preprocessing

MEMORY_FOR_DECODED_IMAGES = 2**30
"""Bytes of decoded images that are kept; beyond them an image is decoded again when needed."""


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
        self._images, self._seed = images, seed
        self._decoded: dict[int, Image.Image] = {}
        self._room = MEMORY_FOR_DECODED_IMAGES
        self._evaluation = preprocessing.evaluation()
        self._training = preprocessing.training(crop_scale)

    def __len__(self) -> int:
        return len(self._images)

    def plain(self, index: int) -> Tensor:
        """The image as the encoder is evaluated on it: (3, H, W)."""
        return self._evaluation(self._read(index))

    def random(self, index: int, view: int) -> Tensor:
        """Random view number ``view`` of the image: (3, H, W)."""
        image = self._read(index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self._seed, index, view))
            return self._training(image)

    def _read(self, index: int) -> Image.Image:
        image = self._decoded.get(index)
        if image is None:
            image = read_image(self._images[index])
            size = 3 * image.width * image.height
            if size <= self._room:
                self._decoded[index] = image
                self._room -= size
        return image


def _mix(*numbers: int) -> int:
    """One seed of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    return mixed
