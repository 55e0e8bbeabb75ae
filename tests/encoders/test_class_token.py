"""The last block computes its class token alone: less work, and the same features and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from small_encoders import LIBRARIES, PREPROCESSING, make_encoder, make_model
from torch.utils.flop_counter import FlopCounterMode

from medept.encoders.encoder import Encoder
from medept.methods import adapt
from medept.training.device import make_accelerator

READ = {
    "vit_tiny_patch16_224:token": 1, "vit_tiny_patch16_224:avg": 17,
    "deit_tiny_distilled_patch16_224": 18, "vit_tiny_patch16_224:map": 17,
    "eva02_tiny_patch14_224:token": 1, "transformers:ViT": 1, "transformers:Dinov2": 1,
    "transformers:CLIPVision": 1, "transformers:SiglipVision": 16, "open_clip": 1,
}  # fmt: skip
"""How many tokens are read of the last block, by model."""


@pytest.mark.parametrize("name", READ)
def test_the_last_block_computes_what_is_read(name: str) -> None:
    model = make_model(name)
    encoder, seen = Encoder(model, name, PREPROCESSING), []
    pixels = torch.randn(2, 3, 32, 32)
    assert encoder(pixels).isfinite().all()
    last = encoder.blocks[-1].mlp
    last.register_forward_hook(lambda m, given, out: seen.append(out.shape[1]))
    encoder(pixels)
    assert seen == [READ[name]]


@pytest.mark.parametrize("library", LIBRARIES)
def test_in_bfloat16_too_the_last_block_computes_what_is_read(library: str) -> None:
    """Though the shortcut is verified there first."""
    encoder = make_encoder(library)
    with make_accelerator("cpu", "bfloat16").autocast():
        encoder(torch.randn(2, 3, 32, 32))
    assert encoder._last_block is not None


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_last_block_asks_for_the_class_token_alone(library: str, prompted: bool) -> None:
    """One query in its attention, and its products counted: keys and values of 17 tokens, queries,
    projection and MLP of one."""
    encoder = make_encoder(library)
    model = adapt(encoder, "ept" if prompted else "linear", 3)
    pixels, queries = torch.randn(4, 3, 32, 32), []
    model.features(pixels)  # verifies the shortcut

    def attended(query: tuple[int, ...], *_: Any, **__: Any) -> int:
        queries.append(query[-2])
        return 0

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={attention: attended}) as c:
        model.features(pixels)
    assert queries == [17, 17, 1]
    counted = {name: sum(each.values()) for name, each in c.get_flop_counts().items()}
    names = {module: name for name, module in encoder.named_modules()}
    last = next(v for k, v in counted.items() if k.endswith(names[encoder.blocks[-1]]))
    width, hidden = 48, 192 if library == "timm" else 96
    assert last == 2 * 4 * width * (17 * 2 * width + 2 * width + 2 * hidden)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["full", "ept", "vpt", "lora", "adapter", "norm", "partial"])
def test_the_last_block_for_the_class_token_alone_is_exact(method: str, library: str) -> None:
    """Features and gradients, float64, against the library's own whole forward."""
    encoder = make_encoder(library).double()
    model = adapt(encoder, method, 3, {"length": 4} if method in ("vpt", "ept") else {}).double()
    trained = [p for p in encoder.parameters() if p.requires_grad] or [
        p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("head")
    ]
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert encoder._last_block is not None
    whole = encoder.model(pixels)
    whole = whole if library == "timm" else whole.pooler_output
    features = {"whole": whole, "ours": encoder(pixels)}
    torch.testing.assert_close(features["ours"], features["whole"], rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(features["whole"])
    pairs = zip(
        *(torch.autograd.grad((f * weight).sum(), trained, allow_unused=True)
          for f in features.values()), strict=True)  # fmt: skip
    for whole, ours in pairs:
        if whole is not None:
            torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-12)


def test_the_last_block_runs_whole_where_all_tokens_are_read() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3,
        num_classes=0, global_pool="avg",
    )  # fmt: skip
    encoder = Encoder(model, "pooled", PREPROCESSING)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder(pixels), model(pixels))
