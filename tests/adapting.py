"""What tests of methods share: which are trained, on what, and moved away from their start."""

from __future__ import annotations

import pytest
import torch
from small_encoders import PREPROCESSING
from torch import nn

from medept.encoders.encoder import Encoder
from medept.methods import METHODS
from medept.methods.features import FeatureMethod

TRAINED = [name for name, method in METHODS.items() if not issubclass(method, FeatureMethod)]
"""Methods that are trained step by step; the others are fitted to features."""


def disturb(model: nn.Module) -> None:
    """Move what is trained away from its start, where much of it is zero."""
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.05 * torch.randn_like(parameter)


def transformers_encoder() -> Encoder:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config, add_pooling_layer=False)
    return Encoder(model, "transformers:tiny", PREPROCESSING)
