"""Weights in bfloat16: the same outputs as autocast gives, and float32 for what is trained."""

from __future__ import annotations

import pytest
import torch

from medept import InputError
from medept.encoders.encoder import LAYERS, Encoder
from medept.encoders.load import load_encoder
from medept.encoders.weights import RANDOM
from medept.methods import METHODS, adapt, trained_of


def cast_for(name: str) -> Encoder:
    """A small encoder in bfloat16, but for what the method trains of it."""
    encoder = small_encoder()
    encoder.cast_to_bfloat16(except_for=trained_of(encoder, name))
    return encoder


def small_encoder() -> Encoder:
    return load_encoder("vit_tiny_patch16_224", weights=RANDOM, image_size=32)


@pytest.mark.parametrize("name", METHODS)
def test_weights_in_bfloat16_give_what_autocast_gives(name: str) -> None:
    """To the bit, and backward; what is trained starts with the same values in float32, but for
    DoRA's magnitudes, which are those of the weights as they are stored."""
    models = []
    for encoder in (small_encoder(), cast_for(name)):
        torch.manual_seed(1)
        models.append(adapt(encoder, name, 2))
    plain, cast = models
    assert cast.encoder_identity == plain.encoder_identity
    layers = [m for m in cast.encoder.modules() if isinstance(m, LAYERS)]
    matrices = [m.weight for m in layers if not m.weight.requires_grad]
    assert all(weight.dtype == torch.bfloat16 for weight in matrices)
    assert matrices or name == "full"
    mine = cast.inserted_state()
    for key, value in plain.inserted_state().items():
        close = {"rtol": 4e-3, "atol": 0} if "magnitude" in key else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(mine[key], value, **close)
        assert mine[key].dtype == torch.float32
    cast.load_inserted_state(plain.inserted_state())
    pixels = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu"):
        expected = plain.features(pixels)
    features = cast.features(pixels)  # it needs no autocast
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    with torch.autocast("cpu"):
        assert torch.equal(cast.features(pixels), expected)
    trained = [p for group in cast.parameter_groups().values() for p in group]
    if trained and cast.trains_encoder:
        logits = cast(pixels)
        assert logits.dtype == torch.float32
        logits.square().sum().backward()
        assert all(p.grad is not None for p in cast.parameter_groups()["head"])
        assert all(p.grad.dtype == torch.float32 for p in trained if p.grad is not None)
    cast.remove()
    torch.testing.assert_close(
        cast.encoder(pixels), cast_for("linear")(pixels), rtol=0.02, atol=0.02
    )


def test_dora_starts_as_the_encoder_in_bfloat16() -> None:
    """Its magnitudes are the norms of rounded weights, in float32: divided by them they are one."""
    encoder, pixels = cast_for("dora"), torch.randn(2, 3, 32, 32)
    before = encoder(pixels)
    torch.testing.assert_close(adapt(encoder, "dora", 2).features(pixels), before)


@pytest.mark.parametrize("name", ["full", "partial"])
def test_what_is_trained_must_not_be_in_bfloat16(name: str) -> None:
    encoder = cast_for("linear")
    places = [p.data_ptr() for p in encoder.parameters()]
    with pytest.raises(InputError, match=f"'{name}' trains weights that are in bfloat16"):
        adapt(encoder, name, 2)
    assert [p.data_ptr() for p in encoder.parameters()] == places
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_copy_with_shared_weights_is_in_bfloat16_in_the_same_memory() -> None:
    encoder = cast_for("linear")
    copy = encoder.copy_with_shared_weights()
    assert copy.in_bfloat16
    assert [p.data_ptr() for p in copy.parameters()] == [p.data_ptr() for p in encoder.parameters()]
