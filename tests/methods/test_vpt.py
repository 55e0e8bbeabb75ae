"""Visual Prompt Tuning against the paper's equations, and where it is refused."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import timm
import torch

from medept import InputError
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import adapt


@pytest.mark.parametrize(
    ("layers", "chosen", "tokens"),
    [
        ("all", {0, 1, 2}, [22, 22, 22, 17]),
        ("first", {0}, [22, 22, 22, 17]),
        ("2-3", {1, 2}, [17, 22, 22, 17]),
        ("2", {1}, [17, 22, 22, 17]),
        ("3", {2}, [17, 17, 22, 17]),
        ("1,3", {0, 2}, [22, 22, 22, 17]),
    ],
)
def test_vpt_is_the_papers_equations(
    encoder: Encoder, layers: str, chosen: set[int], tokens: list[int]
) -> None:
    """Their equations 4 to 8 written out over the blocks, in float64; and how many tokens are in
    each block and in the norm behind them."""
    model, vit = adapt(encoder, "vpt", 3, {"length": 5, "layers": layers}).double(), encoder.model
    prompts = dict(zip(sorted(chosen), model.prompts, strict=True))
    pixels, seen = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    with ExitStack() as stack:
        for module in (*(block.attn for block in vit.blocks), vit.norm):
            hook = module.register_forward_hook(lambda m, i, o: seen.append(i[0].shape[1]))
            stack.callback(hook.remove)
        features = encoder(pixels)
    assert seen == tokens
    model.remove()

    x = vit._pos_embed(vit.patch_embed(pixels))
    token, extra, patches = x[:, :1], x[:, :0], x[:, 1:]
    for i, block in enumerate(vit.blocks):
        extra = prompts[i].expand(2, -1, -1) if i in prompts else extra
        x = block(torch.cat([token, extra, patches], dim=1))
        token, extra, patches = x[:, :1], x[:, 1:-16], x[:, -16:]
    torch.testing.assert_close(features, vit.norm(token)[:, 0])


def test_vpt_serves_rotary_embeddings() -> None:
    backbone = timm.create_model("eva02_tiny_patch14_224", num_classes=0, depth=2, img_size=56)
    encoder = Encoder(backbone, "eva", Preprocessing((56, 56), (0.5,) * 3, (0.5,) * 3))
    model = adapt(encoder, "vpt", 3, {"length": 4, "layers": "2"})
    assert [block.attn.num_prefix_tokens for block in backbone.blocks] == [1, 5]
    assert model(torch.randn(2, 3, 56, 56)).shape == (2, 3)
    model.remove()
    assert [block.attn.num_prefix_tokens for block in backbone.blocks] == [1, 1]
    assert backbone(torch.randn(1, 3, 56, 56)).shape == (1, 192)


def test_an_encoder_that_takes_no_more_tokens_is_refused_by_vpt() -> None:
    backbone = timm.create_model("vit_relpos_small_patch16_224", num_classes=0, depth=1)
    encoder = Encoder(backbone, "relpos", Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InputError, match="no tokens beside its own"):
        adapt(encoder, "vpt", 2)
    assert backbone(torch.randn(1, 3, 224, 224)).shape == (1, 384)
