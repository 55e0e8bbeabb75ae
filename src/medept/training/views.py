"""Images as an encoder sees them: decoded once, in random views that a seed determines.

Random view v of image i is a function of (seed, i, v) alone. So every method trains on the same
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

from medept.data.cases import Item, images_of, sizes_of
from medept.data.images import MEMORY_FOR_DECODED_IMAGES, read_image
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.symmetry import Symmetry

CUT_FROM = 2.0
"""Random views of a large image are cut from a reduced copy, in which the smallest crop still has
this many times the encoder's pixels a side. At 224 pixels, a 12-megapixel image is reduced by 4."""

FLIP = Symmetry("flip")

_RANDOM_STATE_LOCK = Lock()
"""Held while a view is drawn: torchvision draws from the random generator of the whole process."""


class Views:
    """Images, their evaluation views and their random views.

    Decoded images are kept, up to 1 GiB, for those who read them next; :meth:`subset` and
    :meth:`whole` share them.

    Args:
        items: paths, PIL images or arrays, or cases of these.
        preprocessing: the encoder's.
        crop_scale: see :class:`medept.training.recipes.Recipe`.
        symmetry: the flips and turns of which random views are drawn.
        seed: determines all random views.

    Attributes:
        indices: (N,) the place of each image in the whole set.
        cases: (n,) the place of each item, which is an image or a case, in the whole set.
        sizes: (n,) the number of images of each item.

    >>> square = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> views = Views([np.zeros((50, 40, 3), np.uint8)] * 5, square, seed=1)
    >>> views.evaluation_view(0).shape
    torch.Size([3, 32, 32])
    >>> part = views.subset(np.array([4, 2]))
    >>> len(part), len(part.whole())
    (2, 5)
    >>> torch.equal(part.random_view(0, view=3), views.random_view(4, view=3))
    True
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        *,
        crop_scale: float = 1.0,
        symmetry: Symmetry = FLIP,
        seed: int = 0,
    ) -> None:
        self._images, self.seed = images_of(items), seed
        self._sizes = torch.as_tensor(sizes_of(items))
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._take(torch.arange(len(items)))
        self._decoded = _DecodedImages()
        self._evaluation = preprocessing.evaluation()
        self._preparation = symmetry.preparation(preprocessing)
        self._training = preprocessing.training(crop_scale, symmetry.random)
        self._least_size = [CUT_FROM * side / crop_scale**0.5 for side in preprocessing.size]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.indices)

    def subset(self, rows: np.ndarray) -> Views:
        """Some of the items, by their rows here. Their images have the same views as before."""
        part = copy(self)
        part._take(self.cases[torch.as_tensor(rows)])
        return part

    def whole(self) -> Views:
        """All of the set that this is a :meth:`subset` of."""
        whole = copy(self)
        whole._take(torch.arange(len(self._sizes)))
        return whole

    def _take(self, cases: Tensor) -> None:
        self.cases, self.sizes = cases, self._sizes[cases]
        first = self._starts[cases].repeat_interleave(self.sizes)
        place = torch.arange(len(first)) - (self.sizes.cumsum(0) - self.sizes).repeat_interleave(
            self.sizes
        )
        self.indices = first + place

    def decoded_bytes(self) -> int:
        """Bytes of the decoded images that will be kept, if all are as large as the first."""
        first = self._read(int(self.indices[0]), may_reduce=True)
        return min(len(self._images) * _size(first), MEMORY_FOR_DECODED_IMAGES)

    def evaluation_view(self, row: int) -> Tensor:
        """The image as the encoder is evaluated on it: (3, H, W).

        Raises:
            InputError: if the image cannot be read; so do the other views.
        """
        return self._evaluation(self._read(int(self.indices[row]), may_reduce=False))

    def prepared(self, row: int) -> Tensor:
        """What the views of the symmetry are made of: :meth:`Symmetry.preparation` of the image."""
        return self._preparation(self._read(int(self.indices[row]), may_reduce=False))

    def random_view(self, row: int, view: int) -> Tensor:
        """Random view number ``view`` of the image: (3, H, W)."""
        return self._draw(int(self.indices[row]), [view])[0]

    def random_views(self, row: int, count: int) -> Tensor:
        """The first ``count`` random views of the image, which is decoded once: (V, 3, H, W)."""
        return torch.stack(self._draw(int(self.indices[row]), range(count)))

    def random_batch(self, rows: Tensor, view: int) -> Tensor:
        """Random view number ``view`` of several images: (B, 3, H, W)."""
        return torch.stack([self.random_view(row, view) for row in rows.tolist()])

    def _draw(self, index: int, views: Iterable[int]) -> list[Tensor]:
        image = self._read(index, may_reduce=True)
        drawn = []
        for view in views:
            with _RANDOM_STATE_LOCK, torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(combined_seed(self.seed, index, view))
                make_view = self._training(image)
            drawn.append(make_view())
        return drawn

    def _read(self, index: int, *, may_reduce: bool) -> Image.Image:
        """The decoded image, at its full size or reduced as far as random views allow."""
        image = self._decoded.get((index, True)) if may_reduce else None
        if image is None:
            source = self._images[index]
            image = self._decoded.get((index, False)) or read_image(source)
            height, width = self._least_size
            factor = int(min(image.height / height, image.width / width))
            reduced = factor > 1 and may_reduce
            if reduced:
                image = image.reduce(factor)
            if reduced or not isinstance(source, np.ndarray):  # an array is in memory already
                self._decoded.keep((index, reduced), image)
        return image


class _DecodedImages(dict[tuple[int, bool], Image.Image]):
    """Decoded images by index and whether they are reduced, as many as there is memory for.

    Attributes:
        room: bytes that may still be kept.
    """

    room = MEMORY_FOR_DECODED_IMAGES

    def keep(self, key: tuple[int, bool], image: Image.Image) -> None:
        """Keep the image if there is room, and none under this key."""
        if key not in self and _size(image) <= self.room:
            self[key] = image
            self.room -= _size(image)


def _size(image: Image.Image) -> int:
    """Bytes of an RGB image."""
    return 3 * image.width * image.height


def combined_seed(*numbers: int) -> int:
    """One seed from several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return seed
