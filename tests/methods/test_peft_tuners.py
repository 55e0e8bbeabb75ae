"""Tuners of peft on encoders whose query, key and value are one layer."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import adapt


@pytest.mark.parametrize("backbone", ["eva02_tiny_patch14_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_fused_projection_with_biases_beside_it_is_split(backbone: str, name: str) -> None:
    model = timm.create_model(backbone, num_classes=0, depth=1)
    attention = model.blocks[0].attn
    for bias in (attention.q_bias, attention.v_bias):
        nn.init.normal_(bias)
    encoder = Encoder(model, backbone, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randn(1, 3, 224, 224)
    before, keys = encoder(pixels), list(encoder.state_dict())
    adapted = adapt(encoder, name, 2)
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-4, atol=1e-5)
    adapted.remove()
    torch.testing.assert_close(encoder(pixels), before, rtol=1e-5, atol=1e-6)
    assert list(encoder.state_dict()) == keys
    assert attention.qkv_bias_separate is False
