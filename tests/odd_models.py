"""Small models that attend in unusual ways, and what of a model may not change."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = 16


class Patches(nn.Module):
    """Pixels (B, 3, 16, 16) -> blocks on 16 patches of width 8 -> their mean."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 16, 8))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels).flatten(2).mT + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.mean(1)


class Attends(nn.Module):
    """Adds attention over its tokens, ``times`` times; or leaves it unread."""

    def __init__(self, times: int = 1, read: bool = True) -> None:
        super().__init__()
        self.qkv, self.times, self.read = nn.Linear(8, 24), times, read
        self.fused_attn = True

    def forward(self, tokens: Tensor) -> Tensor:
        for _ in range(self.times):
            q, k, v = (x.unflatten(-1, (2, 4)).mT.mT.transpose(1, 2)
                       for x in self.qkv(tokens).chunk(3, -1))  # fmt: skip
            if self.fused_attn:
                out = F.scaled_dot_product_attention(q, k, v)
            else:
                out = (q @ k.mT / 2).softmax(-1) @ v
            tokens = tokens + out.transpose(1, 2).flatten(2) * self.read
        return tokens


def traces(model: nn.Module) -> list[object]:
    """All of a model that could be left changed."""
    return [
        [type(m) for m in model.modules()],
        [m.training for m in model.modules()],
        [(n, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()],
        [(n, t.double().sum().item(), t.shape) for n, t in model.state_dict().items()],
        [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()],
        [vars(m).get("fused_attn") for m in model.modules()],
        torch.get_rng_state().sum().item(),
    ]
