"""LoRA: its start, its scale, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from adapting import disturb

from medept.encoders.encoder import Encoder
from medept.methods import adapt


@pytest.mark.parametrize(
    ("init", "deviation"), [("kaiming", (1 / 48) ** 0.5 / 3**0.5), ("gaussian", 1 / 8)]
)
def test_loras_lower_matrix_starts_as_its_code_or_its_paper_has_it(
    encoder: Encoder, init: str, deviation: float
) -> None:
    """Kaiming's uniform with a slope of sqrt(5), within 1 / sqrt(D); peft's Gaussian of 1 / r."""
    model = adapt(encoder, "lora", 3, {"init": init})
    parts = {end: torch.cat([p.detach().flatten() for n, p in model.named_parameters() if end in n])
             for end in ("lora_A", "lora_B")}  # fmt: skip
    assert float(parts["lora_A"].std()) == pytest.approx(deviation, rel=0.1)
    assert not parts["lora_B"].any()


def test_keys_are_untouched_by_lora(encoder: Encoder) -> None:
    """Inside a fused projection: what is added to queries and values leaves keys as they were."""
    attention = encoder.blocks[0].attn
    tokens = torch.randn(2, 5, 48)
    before = attention.qkv(tokens).chunk(3, dim=-1)
    disturb(adapt(encoder, "lora", 3))
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    torch.testing.assert_close(key, before[1])
    assert (query - before[0]).abs().max() > 1e-3
    assert (value - before[2]).abs().max() > 1e-3


def test_alpha_scales_what_lora_adds(encoder: Encoder) -> None:
    """By alpha / r, written out: W x + (alpha / r) B A x."""
    model = adapt(encoder, "lora", 3, {"rank": 4, "alpha": 6.0})
    disturb(model)
    layer = encoder.blocks[1].attn.qkv.v_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    tokens = torch.randn(2, 5, 48)
    expected = layer.base_layer(tokens) + 6.0 / 4 * tokens @ down.T @ up.T
    torch.testing.assert_close(layer(tokens), expected)
