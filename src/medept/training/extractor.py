"""A frozen encoder, ready to run: images in, features out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medept.data.cases import Item
from medept.encoders.encoder import Encoder
from medept.encoders.load import EMBEDDED, load_encoder
from medept.encoders.preprocessing import OWN_FIT
from medept.encoders.readout import Readout, default_readout
from medept.encoders.symmetry import Symmetry
from medept.methods.pooling import Pool
from medept.progress import Progress, silent
from medept.training.device import make_accelerator, precision_of
from medept.training.inference import AS_IT_IS, MEAN, Unreadable, encode_images

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class FeatureExtractor:
    """An encoder as it came, on its device and in its precision.

    Features are the mean over the first ``tta`` views of ``symmetry``.

    >>> extractor = FeatureExtractor.load("embedded", device="cpu", precision="float32")
    >>> extractor.features([np.zeros((64, 64, 3), np.uint8)]).shape
    (1, 192)
    """

    encoder: Encoder
    accelerator: Accelerator
    symmetry: Symmetry = AS_IT_IS
    tta: int | None = None

    @classmethod
    def load(
        cls,
        name: str = EMBEDDED,
        *,
        weights: str | Path | None = None,
        image_size: int | None = None,
        readout: str = "pooled",
        symmetry: str = "none",
        tta: int | None = None,
        fit_image: str = OWN_FIT,
        device: str = "auto",
        precision: str = "auto",
    ) -> FeatureExtractor:
        """Load an encoder by name.

        Args:
            name: as for :func:`medept.load_encoder`, and so are ``weights``, ``image_size`` and
                ``fit_image``.
            readout: what is read of it (:mod:`medept.encoders.readout`); ``auto``: the best.
            symmetry: over whose views features are averaged (:mod:`medept.encoders.symmetry`).
            tta: over how many of these, at most; None for all.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

        Raises:
            InputError: if the encoder, the device or the precision cannot be had.
        """
        accelerator = make_accelerator(device, precision)
        encoder = load_encoder(name, weights=weights, image_size=image_size, fit_image=fit_image)
        chosen = default_readout(encoder) if readout == "auto" else Readout.parse(readout)
        encoder.read_as(chosen)
        if precision_of(accelerator) == "bfloat16":
            encoder.cast_to_bfloat16()
        return cls(encoder.to(accelerator.device), accelerator, Symmetry(symmetry), tta)

    def identity(self) -> dict[str, Any]:
        """Name, preprocessing and the hash of the weights."""
        return self.encoder.identity()

    def prepare(self, image: Image.Image) -> Tensor:
        """An RGB image as the encoder is evaluated on it: (3, H, W), normalised."""
        return self._transform(image)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Tensor]) -> np.ndarray:
        """Features (b, D), float32, of b prepared images in one batch."""
        pixels = torch.stack(list(prepared)).to(self.accelerator.device)
        with self.accelerator.autocast():
            return self.encoder(pixels).float().cpu().numpy()

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        return self.encoder.preprocessing.evaluation()

    def features(
        self,
        images: Sequence[Item],
        progress: Progress = silent,
        unreadable: Unreadable | None = None,
        *,
        pool: Pool = MEAN,
    ) -> np.ndarray:
        """Features (n, D), float32, of images as they are evaluated.

        Args:
            images: paths, PIL images or arrays, or cases of these.
            progress: called with ``"reading"``, the images done, and all of them.
            unreadable: if given, images that cannot be read are added to it, and their rows are
                NaN.
            pool: how the features of a case come from those of its images.

        Raises:
            DataError: if an image cannot be read and ``unreadable`` is not given.
        """
        return encode_images(
            self.encoder,
            images,
            self.accelerator,
            symmetry=self.symmetry,
            tta=self.tta,
            unreadable=unreadable,
            pool=pool,
            progress=progress,
        )
