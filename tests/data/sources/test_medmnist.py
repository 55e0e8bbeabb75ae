"""MedMNIST in every size, read through its own package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medept import InputError
from medept.data.images import read_image
from medept.data.sources import SOURCES, open_dataset
from medept.data.sources.medmnist import MedMNIST


@pytest.mark.parametrize("source", [name for name in SOURCES if name.startswith("medmnist-")])
def test_medmnist_is_read_through_its_package(source: str, tmp_path: Path) -> None:
    medmnist = pytest.importorskip("medmnist")
    name, _, size = source.removeprefix("medmnist-").partition("-")
    name, volumes, _ = name.partition("3d")
    flag, size = f"{name}mnist{volumes}", int(size or 28)
    info = medmnist.INFO[flag]
    shape, count = (3,) * (info["n_channels"] == 3), len(info["label"])
    shape = (size,) if volumes else shape
    many = info["task"].startswith("multi-label")
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in {"train": 9, "val": 2, "test": 4}.items():
        arrays[f"{split}_images"] = random.integers(0, 256, (n, size, size, *shape), dtype=np.uint8)
        labels = random.integers(0, 2, (n, count)) if many else np.arange(n)[:, None] % count
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    file = tmp_path / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")
    with pytest.raises(InputError, match=f"{file.name}.*download=True"):
        open_dataset(f"{source}:{tmp_path}")
    np.savez(file, **arrays)
    data = open_dataset(f"{source}:{tmp_path}")
    assert len(data) == 15
    assert len(data.classes) == count
    assert data.task == ("multilabel" if many else "multiclass")
    first = arrays["train_images"][0]
    middle = first[13 if size == 28 else 31]  # of 28 or 64, counted from 0
    assert np.array_equal(np.asarray(data.images[0]), middle if volumes else first)
    assert np.array_equal(data.targets[11:], arrays["test_labels"].squeeze())
    assert read_image(data.images[0]).size == (size, size)
    file.write_bytes(b"PK broken")
    with pytest.raises(InputError, match="download it again"):
        open_dataset(f"{source}:{tmp_path}")


def test_every_medmnist_at_every_size_has_a_name() -> None:
    medmnist = pytest.importorskip("medmnist")
    named = {(s.flag, s.size) for s in SOURCES.values() if isinstance(s, MedMNIST)}
    assert named == {
        (flag, size)
        for flag, info in medmnist.INFO.items()
        for size in getattr(medmnist, info["python_class"]).available_sizes
    }
