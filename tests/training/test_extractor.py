"""A frozen encoder by name: the features of the encoder itself, however images come to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.errors import InputError
from medept.training.extractor import FeatureExtractor
from medept.training.inference import encode_images

NAME = "vit_tiny_patch16_224"
IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8) for i in range(3)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_those_of_the_encoder_in_this_precision(precision: str) -> None:
    ours = FeatureExtractor.load(
        NAME, weights=RANDOM, image_size=32, device="cpu", precision=precision
    )
    assert ours.encoder.in_bfloat16 == (precision == "bfloat16")
    encoder = load_encoder(NAME, weights=RANDOM, image_size=32)
    expected = encode_images(encoder, IMAGES, ours.accelerator)
    found = ours.features(IMAGES)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    prepared = [ours.prepare(Image.fromarray(image)) for image in IMAGES]
    np.testing.assert_array_equal(ours.encode(prepared), expected)
    assert ours.identity() == encoder.identity()


@pytest.mark.parametrize(
    "options", [{"name": "vit_secret"}, {"device": "tpu"}, {"precision": "float8"}]
)
def test_what_cannot_be_had_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        FeatureExtractor.load(**options)


def test_features_are_computed_without_gradients() -> None:
    ours = FeatureExtractor.load(NAME, weights=RANDOM, image_size=32, device="cpu")
    seen: list[bool] = []
    ours.encoder.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    ours.encode([torch.zeros(3, 32, 32)])
    ours.features(IMAGES)
    assert seen == [False, False]
