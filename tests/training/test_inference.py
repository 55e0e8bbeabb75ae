"""Images run through an encoder: the same numbers as one by one, each decoded once and let go."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.errors import InputError
from medept.methods import adapt
from medept.training import inference
from medept.training.device import make_accelerator
from medept.training.inference import (
    EVALUATION_BATCH,
    encode_images,
    logits_of_features,
    pixel_batches,
    predict_logits,
    run_batches,
)
from medept.training.views import Views

IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8) for i in range(40)]
PREPROCESSING = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def encoder(tiny_vit: nn.Module) -> Encoder:
    return Encoder(tiny_vit, "tiny", PREPROCESSING)


def test_features_and_logits_are_those_of_each_image_by_itself(encoder: Encoder) -> None:
    accelerator = make_accelerator("cpu", "float32")
    model = adapt(encoder, "ept", 3)
    prepare = PREPROCESSING.evaluation()
    with torch.inference_mode():
        pixels = [prepare(Image.fromarray(image))[None] for image in IMAGES]
        features = torch.cat([encoder(each) for each in pixels]).numpy()
        logits = torch.cat([model(each) for each in pixels]).numpy()
    found = encode_images(encoder, IMAGES, accelerator)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        predict_logits(model, IMAGES, accelerator), logits, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(logits_of_features(model, found), logits, rtol=1e-4, atol=1e-5)


def test_views_give_what_their_images_give(encoder: Encoder) -> None:
    accelerator = make_accelerator("cpu", "float32")
    part = Views(IMAGES, PREPROCESSING).subset(np.array([7, 3]))
    expected = encode_images(encoder, [IMAGES[7], IMAGES[3]], accelerator)
    np.testing.assert_array_equal(encode_images(encoder, part, accelerator), expected)


def test_progress_counts_images(encoder: Encoder) -> None:
    said: list[Any] = []
    encode_images(
        encoder,
        IMAGES,
        make_accelerator("cpu", "float32"),
        progress=lambda *each: said.append(each),
    )
    assert said == [("reading", 32, 40), ("reading", 40, 40)]


def test_no_image_gives_no_row(encoder: Encoder) -> None:
    assert len(encode_images(encoder, [], make_accelerator("cpu", "float32"))) == 0


def test_an_image_that_cannot_be_read_is_named(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="broken.png"):
        encode_images(encoder, [tmp_path / "broken.png"], make_accelerator("cpu", "float32"))


def test_each_image_is_decoded_once_and_let_go(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the number of images: decoded ones are gone when all are read, and
    no more than two batches wait to be computed."""
    decoded: list[weakref.ref[Image.Image]] = []
    waiting: list[int] = []
    read = inference.read_image

    def noting(source: Any) -> Image.Image:
        image = read(source)
        decoded.append(weakref.ref(image))
        return image

    monkeypatch.setattr(inference, "read_image", noting)
    many = [IMAGES[i % len(IMAGES)] for i in range(4 * EVALUATION_BATCH)]
    for done, _ in enumerate(pixel_batches(many, PREPROCESSING), start=1):
        waiting.append(len(decoded) - done * EVALUATION_BATCH)
    assert len(decoded) == len(many)
    assert max(waiting) <= 2 * EVALUATION_BATCH
    gc.collect()
    assert not [ref for ref in decoded if ref() is not None]


def test_images_are_decoded_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: set[str] = set()
    read = inference.read_image
    monkeypatch.setattr(
        inference,
        "read_image",
        lambda one: readers.add(threading.current_thread().name.rpartition("_")[0]) or read(one),
    )
    assert [len(batch) for batch in pixel_batches(IMAGES, PREPROCESSING, size=25)] == [25, 15]
    assert readers == {"prefetch"}


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32),
                                                  ("bfloat16", torch.bfloat16)])  # fmt: skip
def test_batches_run_without_gradients_in_the_accelerators_precision(
    precision: str, dtype: torch.dtype
) -> None:
    layer, accelerator = nn.Linear(3, 2), make_accelerator("cpu", precision)
    (output,) = run_batches(layer, [torch.ones(4, 3)], accelerator)
    assert output.dtype == dtype
    assert output.is_inference()
    assert not torch.is_autocast_enabled("cpu")
