"""Views: what torchvision draws from a seed, and how often an image is decoded for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from small_encoders import IMAGES, PREPROCESSING
from small_fits import train_once
from torchvision import transforms
from torchvision.transforms import v2

from medept.training import views
from medept.training.views import Views


def test_a_subset_has_the_views_of_the_whole() -> None:
    whole = Views(IMAGES, PREPROCESSING, crop_scale=0.5, seed=3)
    part = whole.subset(np.array([4, 1]))
    assert len(part) == 2
    assert len(part.whole()) == len(IMAGES)
    assert torch.equal(part.random_view(0, 2), whole.random_view(4, 2))
    assert torch.equal(
        part.random_views(1, 3), torch.stack([whole.random_view(1, v) for v in range(3)])
    )
    assert torch.equal(part.whole().evaluation_view(1), whole.evaluation_view(1))


def test_a_view_is_what_torchvision_draws_from_its_seed() -> None:
    reference = v2.Compose([
        v2.RandomResizedCrop(32, scale=(0.3, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ])  # fmt: skip
    ours = Views(IMAGES, PREPROCESSING, crop_scale=0.3, seed=4)
    for number, view in ((0, 0), (0, 1), (5, 2), (3, 3)):
        torch.manual_seed(views.combined_seed(4, number, view))
        expected = reference(Image.fromarray(IMAGES[number]))
        torch.manual_seed(1)
        assert torch.equal(ours.random_view(number, view), expected)


@pytest.mark.parametrize("method", ["linear", "partial", "full"])
def test_an_image_is_decoded_once_for_all_its_views(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little room there is to keep it."""
    read: list[int] = []
    original = views.read_image
    monkeypatch.setattr(views, "read_image", lambda one: read.append(id(one)) or original(one))
    monkeypatch.setattr(views._DecodedImages, "room", 0)
    train_once("timm", method, {})
    assert sorted(read) == sorted(map(id, IMAGES))


def test_an_image_that_is_not_reduced_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is asked for first, the image as it is evaluated or a random view of it."""
    read: list[int] = []
    original = views.read_image
    monkeypatch.setattr(views, "read_image", lambda one: read.append(id(one)) or original(one))
    pictures = [Image.fromarray(image) for image in IMAGES[:2]]  # arrays are not kept again
    ours = Views(pictures, PREPROCESSING)
    ours.evaluation_view(0), ours.random_view(0, 0)
    ours.random_view(1, 0), ours.evaluation_view(1)
    assert read == list(map(id, pictures))
    assert views.MEMORY_FOR_DECODED_IMAGES - ours._decoded.room == 2 * 3 * 40 * 40


def test_large_images_are_reduced_before_views_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the views are of the whole picture, so that they can be compared, nothing is lost."""
    y, x = np.mgrid[:1152, :1152]
    waves = np.stack([np.sin(x / 60), np.cos(y / 45), np.sin((x + y) / 70)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    large = Image.fromarray(np.clip(128 + 60 * waves + noise, 0, 255).astype(np.uint8))
    small = Image.fromarray(IMAGES[0])
    ours = Views([small, large], PREPROCESSING)
    ours_small, ours_large = ours.random_views(0, 4), ours.random_views(1, 4)
    assert sum(image.width for image in ours._decoded.values()) == 40 + 1152 // 18
    monkeypatch.setattr(views, "CUT_FROM", float("inf"))
    whole = Views([small, large], PREPROCESSING)
    assert torch.equal(ours_small, whole.random_views(0, 4))
    for one, other in zip(ours_large, whole.random_views(1, 4), strict=True):
        error = min((one - seen).abs().mean() for seen in (other, other.flip(-1)))
        assert error < 0.1 * one.std()
