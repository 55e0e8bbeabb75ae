"""MedMNIST v2 (Yang et al., Scientific Data 2023) in all its sizes, read by its own package.

``medmnist-blood:FOLDER`` is BloodMNIST with 28 x 28 pixels, ``medmnist-blood-224:FOLDER`` with
224 x 224, from the .npz files that the package downloads. In the three-dimensional data sets
(``medmnist-organ3d:FOLDER``) the middle slice along the first axis represents a volume, as the
middle frame does in a DICOM file: there is one image per volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medept.data.labelled_images import LabelledImages
from medept.data.sources.base import Source, require
from medept.errors import DataError, ResourceError

FLAT = ("path", "chest", "derma", "oct", "pneumonia", "retina", "breast", "blood", "tissue",
        "organa", "organc", "organs")  # fmt: skip
VOLUMES = ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")
SIZES = {**dict.fromkeys(FLAT, (28, 64, 128, 224)), **{f"{name}3d": (28, 64) for name in VOLUMES}}


@dataclass(frozen=True)
class MedMNIST(Source):
    """One data set in one size.

    Attributes:
        flag: the package's name for the data set.
        size: pixels a side.
    """

    flag: str
    size: int

    def read(self, folder: Path) -> LabelledImages:
        medmnist = _package()
        info = medmnist.INFO[self.flag]
        stem = self.flag if self.size == 28 else f"{self.flag}_{self.size}"
        download = (
            f"medmnist.{info['python_class']}(split='train', download=True, size={self.size})"
        )
        require(folder, [folder / f"{stem}.npz"], f"In Python, {download} fetches it.")
        make = getattr(medmnist, info["python_class"])
        parts = {}
        for split in ("train", "val", "test"):
            try:
                parts[split] = make(split=split, root=str(folder), size=self.size)
            except Exception as error:  # a damaged archive may raise anything
                raise DataError(
                    f"{folder / stem}.npz: cannot be read ({error}); download it again"
                ) from error
        labels = np.concatenate([part.labels for part in parts.values()])
        multilabel = info["task"].startswith("multi-label")
        return LabelledImages(
            images=tuple(image for part in parts.values() for image in self._as_images(part.imgs)),
            names=tuple(
                f"{split}{i}" for split, part in parts.items() for i in range(len(part.imgs))
            ),
            targets=labels.astype(np.uint8) if multilabel else labels[:, 0].astype(np.int64),
            classes=tuple(info["label"][str(i)] for i in range(len(info["label"]))),
            splits=np.repeat(list(parts), [len(part.imgs) for part in parts.values()]),
        )

    def _as_images(self, images: np.ndarray) -> np.ndarray:
        """Images (n, S, S[, 3]) as they are; of volumes (n, S, S, S) the middle slices."""
        return images[:, (self.size - 1) // 2].copy() if self.flag.endswith("3d") else images


def _package() -> Any:
    try:
        import medmnist
    except ImportError as error:
        raise ResourceError("MedMNIST needs an extra: pip install 'medept[medmnist]'") from error
    return medmnist


def _source(name: str, size: int) -> MedMNIST:
    flat, volumes, _ = name.partition("3d")
    title = f"{flat.capitalize()}MNIST{volumes.upper()}, {size} pixels"
    return MedMNIST(
        f"medmnist-{name}" + ("" if size == 28 else f"-{size}"),
        f"{title}: the middle slice of each volume" if volumes else title,
        f"{flat}mnist{volumes}",
        size,
    )


SOURCES = tuple(_source(name, size) for name, sizes in SIZES.items() for size in sizes)
