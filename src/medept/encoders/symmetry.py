"""Views of an image that mean the same: flips, quarter turns, and corners.

Cells under a microscope, tissue and skin have no upright position: any of the eight flips and
quarter turns is as good an image. A frontal chest radiograph has one, and at most mirrors. A corner
view is cut from the image enlarged by a quarter: it shows more detail of a part. Views serve twice:
training sees them, and a prediction averages over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medept.encoders.preprocessing import Preprocessing
from medept.errors import SettingsError

if TYPE_CHECKING:
    from PIL import Image

_TURNS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flip": ((0, False), (0, True)),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "turns": ((0, False), (2, False), (1, False), (3, False)),
    "all": (
        (0, False), (0, True), (2, False), (2, True), (1, False), (3, False), (1, True), (3, True),
    ),
}  # fmt: skip
"""Quarter turns to the left, after a flip from left to right or not; first the image as it is."""

SYMMETRIES = tuple(_TURNS)
CORNERS = "+corners"

ENLARGED = 1.25
"""How much larger the image is of which corner views are cut."""

_UPPER_LEFT_AFTER = ("upper left", "upper right", "lower right", "lower left")
"""Which corner of an image is the upper left one after so many quarter turns to the left."""


@dataclass(frozen=True)
class Symmetry:
    """``none``, ``flip`` (left to right), ``flips`` (both), ``turns`` or ``all`` (eight).

    With ``+corners`` each view is accompanied by a corner: the upper left one of the image that is
    enlarged, then flipped and turned.

    Raises:
        SettingsError: if it is another.

    >>> len(Symmetry("all")), len(Symmetry("flips+corners"))
    (8, 8)
    >>> image = torch.arange(4.0).reshape(1, 2, 2)
    >>> [view.flatten().tolist() for view in Symmetry("flip").views(image)]
    [[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 3.0, 2.0]]
    """

    name: str = "none"

    def __post_init__(self) -> None:
        if self.name.removesuffix(CORNERS) not in _TURNS:
            raise SettingsError(
                f"symmetry={self.name!r}: use one of {', '.join(SYMMETRIES)}, or one of them with "
                f"{CORNERS}"
            )

    @property
    def corners(self) -> bool:
        """Whether there are corner views."""
        return self.name.endswith(CORNERS)

    @property
    def turns(self) -> tuple[tuple[int, bool], ...]:
        """Quarter turns to the left of each view, and whether it is flipped before."""
        return _TURNS[self.name.removesuffix(CORNERS)]

    def __len__(self) -> int:
        return len(self.turns) * (1 + self.corners)

    def check(self, size: tuple[int, int]) -> None:
        """Refuse quarter turns of images that are not square.

        Raises:
            SettingsError: if the encoder's input of that size cannot be turned.
        """
        if size[0] != size[1] and any(turns % 2 for turns, _ in self.turns):
            raise SettingsError(
                f"symmetry={self.name!r}: quarter turns need a square input, not {size[0]} x "
                f"{size[1]}; use flips"
            )

    def preparation(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        """RGB image -> what :meth:`views` are made of: (3, H, W), or with corners (5, 3, H, W)."""
        whole = preprocessing.evaluation()
        if not self.corners:
            return whole
        enlarged = preprocessing.enlarged(ENLARGED).evaluation()
        return lambda image: self.with_corners(whole(image), enlarged(image))

    @staticmethod
    def with_corners(whole: Tensor, enlarged: Tensor) -> Tensor:
        """Images (..., 3, H, W), and the same enlarged, as one (..., 5, 3, H, W)."""
        rows, columns = (_cuts(side) for side in whole.shape[-2:])
        corners = [enlarged[..., down, across] for down in rows for across in columns]
        return torch.stack([whole, *corners], dim=-4)

    def views(self, prepared: Tensor, count: int | None = None) -> Iterator[Tensor]:
        """The first ``count`` views of prepared images, beginning with the images themselves.

        Four flips come first, then their corners, then what is turned: the best for their number.
        """
        if not self.corners:
            for turns, flipped in self.turns[:count]:
                yield _turned(prepared, turns, flipped)
            return
        places = ("whole", "upper left", "upper right", "lower left", "lower right")
        pixels = dict(zip(places, prepared.unbind(-4), strict=True))
        order = [
            (*turn, corner)
            for first in range(0, len(self.turns), 4)
            for corner in (False, True)
            for turn in self.turns[first : first + 4]
        ]
        for turns, flipped, corner in order[:count]:
            place = _UPPER_LEFT_AFTER[turns] if corner else "whole"
            if flipped and corner:
                row, _, side = place.partition(" ")
                place = f"{row} {'right' if side == 'left' else 'left'}"
            yield _turned(pixels[place], turns, flipped)

    def random(self, draw: float, pixels: Tensor) -> Tensor:
        """One flip and turn of an image (..., H, W), by a number that was drawn from [0, 1)."""
        last_first = self.turns[::-1]
        return _turned(pixels, *last_first[int(draw * len(last_first))])


def _cuts(width: int) -> tuple[slice, slice]:
    return slice(width), slice(-width, None)


def _turned(pixels: Tensor, turns: int, flipped: bool) -> Tensor:
    pixels = pixels.flip(-1) if flipped else pixels
    return torch.rot90(pixels, turns, (-2, -1)) if turns else pixels
