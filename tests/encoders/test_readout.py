"""What is read of an encoder: against timm's own intermediates, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from medept.encoders.encoder import Encoder
from medept.encoders.load import load_encoder
from medept.encoders.preprocessing import Preprocessing
from medept.encoders.readout import PARTS, Readout, default_readout, has_class_token
from medept.errors import EncoderError, SettingsError
from medept.methods import adapt

SQUARE = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def small(name: str = "vit_tiny_patch16_224", **options: object) -> Encoder:
    usual = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model(name, num_classes=0, **(usual | options))
    return Encoder(model, name, SQUARE)


def written_out(
    encoder: Encoder, pixels: torch.Tensor, parts: list[str], blocks: int
) -> np.ndarray:
    _, outputs = encoder.model.forward_intermediates(
        pixels, indices=blocks, return_prefix_tokens=True, output_fmt="NLC", norm=False
    )
    found = []
    for patches, prefix in outputs:
        patches, prefix = patches.double().numpy(), prefix.double().numpy()
        for part in parts:
            value = {
                "class": lambda p=prefix: p[:, 0],
                "mean": lambda p=patches: p.mean(axis=1),
                "std": lambda p=patches: p.std(axis=1, ddof=1),
            }[part]()
            found.append(value / np.linalg.norm(value, axis=1, keepdims=True))
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("text", ["class", "mean", "class+std:last-2", "last-3", "mean+std:all"])
def test_it_is_what_the_formula_says(text: str) -> None:
    encoder, pixels = small(), torch.randn(4, 3, 32, 32)
    readout = Readout.parse(text)
    with torch.no_grad():
        expected = written_out(encoder, pixels, list(readout.parts), readout.blocks or 3)
        found = encoder.read_as(readout)(pixels).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert encoder.width == expected.shape[1]
    assert encoder.identity()["readout"] == str(readout)


def test_pooled_is_what_the_model_itself_gives() -> None:
    encoder, pixels = small(), torch.randn(2, 3, 32, 32)
    before = encoder(pixels)
    encoder.read_as(Readout.parse("all"))
    assert encoder(pixels).shape == (2, 3 * 48)
    torch.testing.assert_close(encoder.read_as(Readout())(pixels), before)
    torch.testing.assert_close(before, encoder.model(pixels))


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3, unique=True),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_a_name_is_read_back(parts: list[str], blocks: int | None) -> None:
    readout = Readout(tuple(parts), blocks)
    assert Readout.parse(str(readout)) == readout


@pytest.mark.parametrize(
    "text", ["", "klass", "class+class", "last-0", "class:", "mean:first-2", "+"]
)
def test_what_is_no_readout_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="readout"):
        Readout.parse(text)


def test_registers_are_no_class_token_and_are_left_out_of_patches() -> None:
    encoder = small("vit_small_patch16_dinov3", depth=2, embed_dim=48, num_heads=3)
    assert has_class_token(encoder)
    assert encoder.sites[0].prefix == 5
    without = small("vit_base_patch16_siglip_224")
    assert not has_class_token(without)
    assert str(default_readout(without)) == "mean+std:all"
    with pytest.raises(EncoderError, match="no class token"):
        without.read_as(Readout.parse("class"))


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(EncoderError, match="3 blocks only"):
        small().read_as(Readout.parse("last-4"))


def test_blocks_of_several_widths_are_read_as_the_model_does() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).eval()
    encoder = Encoder(model, "swin", Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    assert default_readout(encoder) == Readout()
    with pytest.raises(EncoderError, match="pooled"):
        encoder.read_as(Readout.parse("mean:last-2"))


@pytest.mark.parametrize("name", ["transformers", "open_clip"])
def test_other_libraries(name: str) -> None:
    if name == "transformers":
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
            image_size=32, patch_size=8,
        )  # fmt: skip
        model = transformers.ViTModel(config, add_pooling_layer=False).eval()
        states = lambda x: model(x, output_hidden_states=True).hidden_states[1:]  # noqa: E731
    else:
        open_clip = pytest.importorskip("open_clip")
        from open_clip.transformer import VisionTransformer

        del open_clip
        model = VisionTransformer(32, 8, 48, 2, 3, 2.0, output_dim=16).eval()
        states = None
    encoder = Encoder(model, name, SQUARE).read_as(Readout.parse("class:all"))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = encoder(pixels)
        assert found.shape == (2, 2 * 48)
        if states is not None:
            expected = [torch.nn.functional.normalize(s[:, 0], dim=-1) for s in states(pixels)]
            torch.testing.assert_close(found, torch.cat(expected, dim=-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text", ["pooled", "class:last-2", "class+std:all", "mean"])
@pytest.mark.parametrize("method", ["ept", "partial-1", "lora"])
def test_training_sees_the_gradient_of_what_is_read(method: str, text: str) -> None:
    """The shortcuts leave it as it is: against the same encoder without any."""
    torch.manual_seed(1)
    encoder = small().read_as(Readout.parse(text))
    pixels = torch.randn(3, 3, 32, 32)
    model = adapt(encoder, method, 2)
    gradients = []
    for last_block in (encoder._last_block, None):
        encoder.__dict__["_last_block"] = last_block
        model.zero_grad()
        model(pixels).square().sum().backward()
        inside = model.parameter_groups()["encoder"]
        gradients.append([p.grad.clone() for p in inside if p.grad is not None])
    assert gradients[0]
    for with_shortcut, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_shortcut, without, rtol=1e-4, atol=1e-6)


def test_the_embedded_encoder_is_read_at_every_block() -> None:
    encoder = load_encoder()
    assert str(default_readout(encoder)) == "class+std:all"
    encoder.read_as(default_readout(encoder))
    assert encoder.width == 8 * 2 * 192
