"""How an image becomes an encoder's input: fitted to its size, cut or padded, normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor

from medept.errors import SettingsError

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "squeeze", "pad"]
"""What is done with an image of other proportions than the encoder's input."""

OWN_FIT = "auto"
"""What the encoder's own processor does."""

FITS = (OWN_FIT, *get_args(Fit))

Size = tuple[int, int]
"""(height, width) in pixels."""

USUAL_RATIOS = (3 / 4, 4 / 3)
"""Proportions of random crops."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an encoder's input.

    The image is resized to cover ``resized`` (``crop``), to be contained in it (``pad``), or to
    just that size whatever its proportions (``squeeze``). Of the result the centre is cut out where
    it is larger than ``size``, and a border of the colour ``fill`` is added where it is smaller.

    Attributes:
        size: (height, width) of the result, in pixels.
        mean: of each channel, subtracted from values between 0 and 1.
        std: of each channel, by which the difference is divided.
        interpolation: ``bicubic``, ``bilinear``, ``nearest``, ``lanczos``, ``box`` or ``hamming``.
        fit: ``crop``, ``squeeze`` or ``pad``.
        resized: (height, width) that the image is first fitted to, if that is not ``size``.
        fill: the colour (R, G, B), from 0 to 255, of what is added.
        rounding: how the corner of the centre is rounded to whole pixels: ``nearest`` as in
            torchvision, or ``down`` as in transformers.

    >>> from PIL import Image
    >>> square = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> white = square.evaluation()(Image.new("RGB", (50, 40), "white"))
    >>> white.shape, white.mean().item()
    (torch.Size([3, 32, 32]), 1.0)
    >>> round(square.share_cut((50, 40)), 3)
    0.2
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    fit: Fit = "crop"
    resized: Size | None = None
    fill: tuple[int, int, int] = (0, 0, 0)
    rounding: Literal["nearest", "down"] = "nearest"

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012, an adapter's are read with it

    def evaluation(self) -> Callable[[Image.Image], Tensor]:
        """The evaluation view: RGB image -> normalised (3, H, W)."""
        return self._prepare

    def _prepare(self, image: Image.Image) -> Tensor:
        from PIL import Image

        height, width = self._fitted(image.height, image.width)
        resample = Image.Resampling[self.interpolation.upper()]
        return self._normalised(self._centre(image.resize((width, height), resample)))

    def _fitted(self, height: int, width: int) -> Size:
        """What size an image of this height and width is resized to, before the centre is cut."""
        rows, columns = self.resized or self.size
        if self.fit == "squeeze":
            return rows, columns
        if self.fit == "crop" and rows == columns:  # in whole numbers, as torchvision does
            return max(rows, rows * height // width), max(rows, rows * width // height)
        ratios = height / rows, width / columns
        ratio = min(ratios) if self.fit == "crop" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _centre(self, image: Image.Image) -> Image.Image:
        """The image with its edges cut or padded to ``size``."""
        from PIL import Image

        height, width = self.size
        down, right = max(0, height - image.height) // 2, max(0, width - image.width) // 2
        if image.height < height or image.width < width:
            larger = Image.new(
                "RGB", (max(width, image.width), max(height, image.height)), self.fill
            )
            larger.paste(image, (right, down))
            image = larger
        top, left = ((image.height - height) / 2, (image.width - width) / 2)
        to_whole = round if self.rounding == "nearest" else int
        top, left = to_whole(top), to_whole(left)
        return image.crop((left, top, left + width, top + height))

    def _normalised(self, image: Image.Image) -> Tensor:
        """Values (3, H, W) less their mean, divided by their standard deviation."""
        from torchvision.transforms.functional import normalize, to_tensor

        return normalize(to_tensor(image), self.mean, self.std, inplace=True)

    def share_cut(self, size: tuple[int, int]) -> float:
        """The share of the area of an image of this (width, height) that is cut off."""
        kept = 1.0
        for side, whole in zip(self.size, self._fitted(size[1], size[0]), strict=True):
            kept *= min(1.0, side / whole)
        return 1.0 - kept

    def with_fit(self, fit: str) -> Preprocessing:
        """The same with another fit: ``squeeze`` and ``pad`` then keep the whole image.

        A border that ``pad`` adds has the mean colour.

        Raises:
            SettingsError: if there is no such fit.

        >>> own = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, resized=(36, 36))
        >>> own.with_fit("squeeze").resized is None, own.with_fit("crop") == own
        (True, True)
        """
        if fit not in FITS:
            raise SettingsError(f"fit_image={fit!r}: use one of {', '.join(FITS)}")
        if fit == OWN_FIT or fit == self.fit == "crop":
            return self
        red, green, blue = (min(255, max(0, round(255 * channel))) for channel in self.mean)
        fill = (red, green, blue) if fit == "pad" else (0, 0, 0)
        return replace(self, fit=cast(Fit, fit), resized=None, fill=fill)

    def with_size(self, size: Size) -> Preprocessing:
        """The same for another input size, with as much cut off."""
        if self.resized is None:
            return replace(self, size=size)
        height, width = (
            int(new * whole / old)
            for new, whole, old in zip(size, self.resized, self.size, strict=True)
        )
        return replace(self, size=size, resized=(height, width))

    def enlarged(self, factor: float) -> Preprocessing:
        """The same, for an input that is so many times as large."""
        height, width = (round(factor * side) for side in self.size)
        return self.with_size((height, width))

    def training(
        self, crop_scale: float, turn: Callable[[float, Tensor], Tensor]
    ) -> Callable[[Image.Image], Callable[[], Tensor]]:
        """Random views: RGB image -> a function that makes the view (3, H, W), normalised.

        The first call draws a random resized crop, turned at random; the second makes it,
        and uses no random numbers. Crops are drawn from the image as it is squeezed or padded.

        Args:
            crop_scale: the smallest part of the image's area that a crop may have.
            turn: what becomes of a crop (3, H, W), by a number that is drawn from [0, 1).
        """
        from torchvision.transforms import v2

        interpolation = v2.InterpolationMode(self.interpolation)

        def draw(image: Image.Image) -> Callable[[], Tensor]:
            image = self._padded(image) if self.fit == "pad" else image
            crop = v2.RandomResizedCrop(
                self.size,
                scale=(crop_scale, 1.0),
                ratio=self._ratios(image),
                interpolation=interpolation,
            )
            where, number = crop.make_params([image]), float(torch.rand(1))
            return lambda: turn(number, self._normalised(crop.transform(image, where)))

        return draw

    def _ratios(self, image: Image.Image) -> tuple[float, float]:
        """Proportions of random crops; of a squeezed image, those they have before it is."""
        if self.fit != "squeeze":
            return USUAL_RATIOS
        height, width = self.size
        squeezed = image.width / image.height / (width / height)
        least, most = USUAL_RATIOS
        return least * squeezed, most * squeezed

    def _padded(self, image: Image.Image) -> Image.Image:
        """The image with a border that gives it the proportions of ``size``."""
        from PIL import ImageOps

        scale = max(image.height / self.size[0], image.width / self.size[1])
        height, width = (max(1, round(scale * side)) for side in self.size)
        right, down = max(0, width - image.width), max(0, height - image.height)
        border = (right // 2, down // 2, (right + 1) // 2, (down + 1) // 2)
        return ImageOps.expand(image, border, self.fill)
