"""Prompts that are added to tokens."""

from __future__ import annotations

import pytest
import torch
from adapting import disturb

from medept.encoders.encoder import Encoder
from medept.methods import adapt


@pytest.mark.parametrize(("layers", "chosen"), [("all", [0, 1, 2]), ("1,3", [0, 2])])
def test_added_prompts_go_into_each_chosen_block(
    encoder: Encoder, layers: str, chosen: list[int]
) -> None:
    model, vit = adapt(encoder, "vp", 3, {"layers": layers}).double(), encoder.model
    disturb(model)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = encoder(pixels)
    model.remove()
    x, prompts = (
        vit._pos_embed(vit.patch_embed(pixels)),
        dict(zip(chosen, model.prompts, strict=True)),
    )
    for i, block in enumerate(vit.blocks):
        x = block(x + prompts[i] if i in prompts else x)
    torch.testing.assert_close(features, vit.norm(x)[:, 0])
