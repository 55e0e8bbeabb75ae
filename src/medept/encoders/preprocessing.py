"""How an image becomes an encoder's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an encoder's input.

    Attributes:
        size: (height, width) in pixels.
        mean: of each channel, subtracted from values between 0 and 1.
        std: of each channel, by which the difference is divided.
        interpolation: ``bicubic``, ``bilinear``, ``nearest`` or another name that timm knows.
        crop_pct: the part of the resized image that the centre crop keeps along each side.

    >>> from PIL import Image
    >>> square = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> white = square.evaluation()(Image.new("RGB", (50, 40), "white"))
    >>> white.shape, white.mean().item()
    (torch.Size([3, 32, 32]), 1.0)
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def evaluation(self) -> Callable[[Image.Image], Tensor]:
        """The evaluation view: RGB image -> normalised (3, H, W), resized and centre-cropped.

        It is timm's evaluation transform.
        """
        from timm.data import create_transform

        return create_transform(
            (3, *self.size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
        )

    def enlarged(self, factor: float) -> Preprocessing:
        """The same, for an input that is so many times as large."""
        height, width = (round(factor * side) for side in self.size)
        return replace(self, size=(height, width))

    def training(
        self, crop_scale: float, turn: Callable[[float, Tensor], Tensor]
    ) -> Callable[[Image.Image], Callable[[], Tensor]]:
        """Random views: RGB image -> a function that makes the view (3, H, W), normalised.

        The first call draws a random resized crop, turned at random; the second makes it,
        and uses no random numbers.

        Args:
            crop_scale: the smallest part of the image's area that a crop may have.
            turn: what becomes of a crop (3, H, W), by a number that is drawn from [0, 1).
        """
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(
            self.size,
            scale=(crop_scale, 1.0),
            interpolation=v2.InterpolationMode(self.interpolation),
        )
        to_tensor = v2.Compose(
            [
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(self.mean, self.std),
            ]
        )

        def draw(image: Image.Image) -> Callable[[], Tensor]:
            where, number = crop.make_params([image]), float(torch.rand(1))
            return lambda: turn(number, to_tensor(crop.transform(image, where)))

        return draw
