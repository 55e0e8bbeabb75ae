"""Small encoders with random weights from each library, and a few images for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing

LIBRARIES = ["timm", "transformers"]
IMAGES = [np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) for i in range(6)]
TARGETS = np.array([0, 1, 2, 0, 1, 2])
PREPROCESSING = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 96, "image_size": 224, "patch_size": 16}  # fmt: skip
"""A configuration of transformers for images of 224 pixels."""

_SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
          "intermediate_size": 96, "patch_size": 8}  # fmt: skip


def make_encoder(library: str) -> Encoder:
    """A ViT of 3 blocks, 32 pixels and 17 tokens, whose class token is read; always the same."""
    torch.manual_seed(0)
    model: torch.nn.Module
    if library == "timm":
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3,
                                  embed_dim=48, num_heads=3, num_classes=0)  # fmt: skip
    else:
        transformers = pytest.importorskip("transformers")
        sizes = _SIZES | {"num_hidden_layers": 3, "num_attention_heads": 3}
        model = transformers.ViTModel(transformers.ViTConfig(**sizes))
    return Encoder(model, library, PREPROCESSING)


def pooled_encoder(pool: str) -> Encoder:
    """A ViT of 2 blocks that reads its class token (``token``), or pools (``avg``, ``map``)."""
    torch.manual_seed(0)
    return Encoder(make_model(f"vit_tiny_patch16_224:{pool}"), pool, PREPROCESSING)


def make_model(name: str) -> torch.nn.Module:
    """``open_clip``, ``transformers:KIND``, or a timm name, with ``:POOL`` or without."""
    if name == "open_clip":
        open_clip = pytest.importorskip("open_clip")
        return open_clip.model.VisionTransformer(
            image_size=32, patch_size=8, width=48, layers=2, heads=4, mlp_ratio=2.0, output_dim=32,
        )  # fmt: skip
    library, _, kind = name.partition(":")
    if library == "transformers":
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{kind}Config")(**_SIZES)
        return getattr(transformers, f"{kind}Model")(config)
    pooling: dict[str, Any] = {"global_pool": kind} if kind else {}
    return timm.create_model(library, img_size=32, patch_size=8, depth=2, embed_dim=48,
                             num_heads=3, num_classes=0, **pooling)  # fmt: skip
