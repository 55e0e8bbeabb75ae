"""What a model has to be given: one channel, another size, every patch; and that it is a function
of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from medept import FewShotClassifier, InputError, load_encoder
from medept.encoders.encoder import Encoder
from medept.encoders.model_inputs import try_out
from medept.encoders.preprocessing import Preprocessing
from medept.methods import METHODS, adapt

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
SQUARE = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)


def saved(folder: Path, kind: str, processor: dict[str, Any], **changes: Any) -> Any:
    """A small model of transformers in a folder, with its processor; returns the model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "intermediate_size": 96} | SMALL | changes
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape))
    model.save_pretrained(folder)
    own = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(own | processor))
    return model.eval()


def test_a_masked_autoencoder_sees_every_patch_in_its_order(tmp_path: Path) -> None:
    """As the same weights in a plain ViT do."""
    transformers = pytest.importorskip("transformers")
    saved(tmp_path, "ViTMAE", {})
    encoder = load_encoder(f"transformers:{tmp_path}")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, intermediate_size=96, layer_norm_eps=1e-12, **SMALL
    )
    plain = transformers.ViTModel(config, add_pooling_layer=False).eval()
    plain.load_state_dict(encoder.model.state_dict())
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = plain(pixels).last_hidden_state
        torch.testing.assert_close(encoder.model(pixels).last_hidden_state, expected)
        torch.testing.assert_close(encoder(pixels), expected[:, 0])
    larger = load_encoder(f"transformers:{tmp_path}", image_size=48)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = plain(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(larger.model(pixels).last_hidden_state, expected)


def test_the_size_of_a_processor_is_followed_and_another_may_be_given(tmp_path: Path) -> None:
    edge, cut = {"shortest_edge": 48}, {"height": 40, "width": 24}
    crops = {"image_processor_type": "BitImageProcessor", "size": edge, "crop_size": cut}
    model = saved(tmp_path, "ViT", crops)
    own = load_encoder(f"transformers:{tmp_path}")
    assert own.preprocessing.size == (40, 24)
    assert [site.grid for site in own.sites] == [(5, 3)] * 2
    given = load_encoder(f"transformers:{tmp_path}", image_size=64)
    assert given.preprocessing.size == (64, 64)
    assert given.fingerprint == own.fingerprint
    for encoder in (own, given):
        pixels = torch.randn(2, 3, *encoder.preprocessing.size)
        with torch.inference_mode():
            expected = model(pixels, interpolate_pos_encoding=True).pooler_output
            torch.testing.assert_close(encoder(pixels), expected)
    with pytest.raises(InputError, match="image_size=50: give a multiple of 8"):
        load_encoder(f"transformers:{tmp_path}", image_size=50)


def test_a_model_of_one_channel_sees_the_luminance(tmp_path: Path) -> None:
    grey = {"image_mean": [0.4], "image_std": [0.3]}
    model = saved(tmp_path, "ViT", grey, num_channels=1)
    encoder = load_encoder(f"transformers:{tmp_path}")
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image = Image.fromarray(colours)
    processor = pytest.importorskip("transformers").ViTImageProcessor.from_pretrained(tmp_path)
    own = processor(image.convert("L"), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found = encoder(encoder.preprocessing.evaluation()(image)[None])
        torch.testing.assert_close(found, model(own).pooler_output, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", ["ept", "vpt", "vp", "lora", "adapter", "partial-1", "full"])
def test_methods_adapt_a_model_of_one_channel(method: str, tmp_path: Path) -> None:
    saved(tmp_path, "ViT", {"image_mean": [0.5], "image_std": [0.5]}, num_channels=1)
    assert method.split("-")[0] in METHODS
    model = adapt(load_encoder(f"transformers:{tmp_path}"), method, 2)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_fit_on_a_model_of_one_channel_is_saved_and_restored(tmp_path: Path) -> None:
    saved(tmp_path / "vit", "ViT", {"image_mean": [0.5], "image_std": [0.5]}, num_channels=1)
    images = [np.full((40, 60, 3), grey, np.uint8) for grey in (10, 40, 200, 240)]
    name = f"transformers:{tmp_path / 'vit'}"
    fitted = FewShotClassifier(name, "probe", device="cpu", precision="float32")
    fitted.fit(images, [0, 0, 1, 1]).save(tmp_path / "fit")
    loaded = FewShotClassifier.load(tmp_path / "fit", device="cpu", precision="float32")
    np.testing.assert_array_equal(loaded.predict(images), [0, 0, 1, 1])
    np.testing.assert_allclose(loaded.predict_proba(images), fitted.predict_proba(images))


def test_timm_weights_of_one_channel_and_of_two(tmp_path: Path) -> None:
    for channels in (1, 2):
        model = timm.create_model("test_vit", num_classes=0, in_chans=channels)
        save_file(model.state_dict(), tmp_path / f"{channels}.safetensors")
        pixels = torch.randn(2, 1, 160, 160)
        if channels == 1:
            encoder = load_encoder("test_vit", weights=tmp_path / "1.safetensors")
            with torch.inference_mode():
                expected = model.eval()(pixels)
                torch.testing.assert_close(encoder(pixels.expand(-1, 3, -1, -1)), expected)
    with pytest.raises(InputError, match="takes 2 channels"):
        load_encoder("test_vit", weights=tmp_path / "2.safetensors")


class _Odd(nn.Module):
    """A model whose answer is not a function of the image alone, in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(3, 4)

    def forward(self, pixels: Tensor) -> Any:
        means = pixels.mean((2, 3))
        if self.how == "patch dropout":
            means = torch.nn.functional.dropout(pixels, 0.5, training=True).mean((2, 3))
        if self.how == "noise":
            means = means + 0.1 * torch.randn_like(means)
        if self.how == "batch":
            means = means - means.mean(0)
        if self.how == "nan":
            means = means / 0
        features = self.layer(means)
        return {"maps": pixels, "pair": (features, features)}.get(self.how, features)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("patch dropout", "different answers to the same image"),
        ("noise", "different answers to the same image"),
        ("batch", "depends on the images beside it"),
        ("nan", "different answers"),
        ("maps", r"gives \(2, 3, 32, 32\) for two images"),
        ("pair", "does not take images of 32 x 32 pixels"),
    ],
)
def test_what_is_no_function_of_an_image_is_refused(how: str, message: str) -> None:
    try_out(Encoder(_Odd("plain"), "plain", SQUARE))
    with pytest.raises(InputError, match=message):
        try_out(Encoder(_Odd(how), how, SQUARE))


def test_an_adapter_of_an_encoder_that_is_not_square_is_restored(tmp_path: Path) -> None:
    processor = {"size": {"height": 48, "width": 32}}
    saved(tmp_path / "vit", "ViT", processor, image_size=[48, 32])
    name = f"transformers:{tmp_path / 'vit'}"
    images = [np.full((40, 60, 3), grey, np.uint8) for grey in (10, 240)]
    fitted = FewShotClassifier(name, "linear", epochs=1, device="cpu", precision="float32")
    fitted.fit(images, [0, 1]).save(tmp_path / "fit")
    assert fitted.model_.encoder.preprocessing.size == (48, 32)
    loaded = FewShotClassifier.load(tmp_path / "fit", device="cpu", precision="float32")
    assert loaded.image_size is None
    np.testing.assert_allclose(loaded.predict_proba(images), fitted.predict_proba(images))
