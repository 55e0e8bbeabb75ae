"""The encoder that ships inside medept: a small vision transformer, pretrained by us.

``encoder.json`` says how timm builds it and how images are prepared, ``encoder.safetensors``
holds its weights in float16, and ``README.md`` is its model card.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from importlib.resources import files
from typing import Any

from torch import nn

from medept.errors import EncoderError


def build(architecture: dict[str, Any]) -> nn.Module:
    """A timm ``VisionTransformer`` on a convolutional stem, with random weights.

    Args:
        architecture: keyword arguments of timm's ``VisionTransformer``, and under ``stem`` those
            of timm's ``ConvStem``.
    """
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import ConvStem

    options = dict(architecture)
    stem = {k: tuple(v) if isinstance(v, list) else v for k, v in options.pop("stem").items()}
    embed = partial(HybridEmbed, backbone=ConvStem(**stem, act_layer=nn.GELU), proj=False)
    return VisionTransformer(
        embed_layer=embed, patch_size=1, num_classes=0, dynamic_img_size=True, **options
    )


def load() -> tuple[nn.Module, dict[str, Any]]:
    """The pretrained encoder in float32 and evaluation mode, and its ``encoder.json``.

    Raises:
        EncoderError: if the weight file is not the one that ``encoder.json`` describes.

    >>> model, config = load()
    >>> config["transform"]["input_size"], model.num_features
    (64, 192)
    """
    from safetensors.torch import load as read_tensors

    folder = files(__package__)
    config = json.loads(folder.joinpath("encoder.json").read_text(encoding="utf-8"))
    data = folder.joinpath("encoder.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != config["sha256"]:
        raise EncoderError(
            "the weights of the embedded encoder are damaged (their SHA-256 differs from that in "
            "encoder.json): install medept again"
        )
    model = build(config["architecture"])
    model.load_state_dict(read_tensors(data), strict=True)
    return model.eval(), config
