"""The embedded encoder against a second, plain implementation of its architecture in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from medept.encoders import embedded


def _reference_features(pixels: Tensor) -> Tensor:
    """Class tokens (B, D), straight from the weight file."""
    file = Path(embedded.__file__).with_name("encoder.safetensors")
    w = {name: tensor.double() for name, tensor in load_file(file).items()}
    x = pixels.double()
    for i in range(3):
        stem = f"patch_embed.backbone.{i}"
        x = F.conv2d(x, w[f"{stem}.conv.weight"], w.get(f"{stem}.conv.bias"), stride=2, padding=1)
        if i < 2:
            mean, var, gain, offset = (
                w[f"{stem}.bn.{part}"][:, None, None]
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / (var + 1e-5).sqrt() * gain + offset
            x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    places = w["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    if x.shape[-1] != 8:
        places = F.interpolate(places, x.shape[-2:], mode="bicubic", antialias=True)
    x = (x + places).flatten(2).transpose(1, 2)
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, x], dim=1)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(8):
        block = f"blocks.{i}"
        rows = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = rows.unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / 8, dim=-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize("size", [64, 96, 128])
def test_features_are_those_of_the_plain_formula(size: int) -> None:
    model, _ = embedded.load()
    pixels = torch.rand(2, 3, size, size) * 2 - 1
    expected = _reference_features(pixels)
    with torch.inference_mode():
        assert torch.allclose(model.double()(pixels.double()), expected, atol=1e-5)


def test_only_the_encoder_is_shipped() -> None:
    model, config = embedded.load()
    assert not model.training
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert isinstance(model.head, torch.nn.Identity)
    assert Path(embedded.__file__).with_name("encoder.safetensors").stat().st_size <= 12e6
    assert set(config) == {"name", "architecture", "transform", "sha256", "training"}
