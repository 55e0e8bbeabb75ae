"""Says if a crop leaves out much of the images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice

from medept.data.cases import Item, images_of
from medept.data.images import read_images
from medept.encoders.encoder import Encoder
from medept.errors import InputError

MUCH = 0.1
"""The share of the images' area from which on it is said that it is cut off."""

LOOKED_AT = 16
"""How many images are measured, spread evenly over all."""


def warn_of_cropping(items: Sequence[Item], encoder: Encoder) -> bool:
    """Warn if an encoder's crop leaves out more than a tenth of the images' area.

    Args:
        items: images or cases. A few images are read; those that cannot be are passed over.
        encoder: that they are prepared for.

    Returns:
        Whether it warned.

    Warns:
        UserWarning: which says how much, and what keeps the whole image.
    """
    preprocessing = encoder.preprocessing
    if preprocessing.fit != "crop" and preprocessing.resized is None:
        return False
    images = images_of(items)
    step = -(-len(images) // LOOKED_AT)
    some = list(islice(images, 0, None, step))
    found = read_images(some, lambda image: image.size)
    sizes = [size for size in found if not isinstance(size, InputError)]
    areas = [width * height for width, height in sizes]
    cut = sum(a * preprocessing.share_cut(s) for a, s in zip(areas, sizes, strict=True))
    if cut <= MUCH * sum(areas):
        return False
    warnings.warn(
        f"{encoder.name} sees the centre of each image: {100 * cut / sum(areas):.0f} % of their "
        "area is cut off. To keep all of it, fit with fit_image=squeeze or fit_image=pad",
        stacklevel=2,
    )
    return True
