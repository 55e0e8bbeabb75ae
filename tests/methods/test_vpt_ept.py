"""VPT's tokens and EPT's gates at once."""

from __future__ import annotations

import torch
from adapting import disturb

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_tokens_and_embedded_prompts_are_both_there(encoder: Encoder) -> None:
    """With its gates wide open it is VPT."""
    vpt, pixels = adapt(encoder, "vpt", 3, {"length": 5}), torch.randn(2, 3, 32, 32)
    disturb(vpt)
    prompts = [prompt.detach().clone() for prompt in vpt.prompts]
    expected = encoder(pixels)
    vpt.remove()
    both = adapt(encoder, "vpt-ept", 3, {"length": 5})
    with torch.no_grad():
        for own, prompt in zip(both.prompts, prompts, strict=True):
            own.copy_(30 * prompt)
        gated = encoder(pixels)
        for logits in both.handle.parameters():
            assert logits.shape == (1 + 5 + 16,)
            logits.fill_(-torch.inf)
    torch.testing.assert_close(encoder(pixels), expected)
    assert not torch.allclose(gated, expected, rtol=1e-2)
