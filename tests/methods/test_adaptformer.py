"""AdaptFormer against the paper's equations."""

from __future__ import annotations

import torch
from adapting import disturb

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_adaptformer_is_beside_the_mlp(encoder: Encoder) -> None:
    """Its equations 2 to 4 written out over the blocks, in float64."""
    model = adapt(encoder, "adapter", 3, {"reduction": 4, "scale": 0.7})
    disturb(model)
    vit, pixels = encoder.model.double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.double()
    features = encoder(pixels)
    model.remove()
    x = vit._pos_embed(vit.patch_embed(pixels))
    for block, bottleneck in zip(vit.blocks, model.bottlenecks, strict=True):
        x = x + block.attn(block.norm1(x))
        read = block.norm2(x)
        hidden = (read @ bottleneck.down.weight.T + bottleneck.down.bias).relu()
        x = x + block.mlp(read) + 0.7 * (hidden @ bottleneck.up.weight.T + bottleneck.up.bias)
    torch.testing.assert_close(features, vit.norm(x)[:, 0])
