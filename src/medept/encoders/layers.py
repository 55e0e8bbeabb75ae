"""The layers of an encoder's blocks, whichever library it is from: their names, and changes.

Changes are undone when the stack that is passed in is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from medept.encoders.encoder import Encoder
    from medept.ept.sites import AttentionSite


class SplitProjection(nn.Module):
    """A fused projection to query, key and value as three linear layers that share its weights.

    >>> fused = nn.Linear(4, 12)
    >>> tokens = torch.ones(1, 5, 4)
    >>> torch.allclose(SplitProjection(fused)(tokens), fused(tokens), atol=1e-6)
    True
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        width, third = fused.in_features, fused.out_features // 3
        biases = (None,) * 3 if fused.bias is None else fused.bias.chunk(3)
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"), fused.weight.chunk(3), biases, strict=True
        ):
            layer = nn.Linear(width, third, bias=bias is not None, device="meta")
            layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
            if bias is not None:
                layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)


def split_projections(encoder: Encoder, stack: ExitStack) -> None:
    """Replace an attention's fused projection ``qkv`` by a :class:`SplitProjection`, everywhere."""
    for site in encoder.sites:
        fused = getattr(site.module, "qkv", None)
        if isinstance(fused, nn.Linear):
            site.module.qkv = SplitProjection(fused)
            stack.callback(setattr, site.module, "qkv", fused)
            if getattr(site.module, "qkv_bias_separate", None) is False:  # EVA, BEiT: use weights
                site.module.qkv_bias_separate = True  # type: ignore[assignment]
                stack.callback(setattr, site.module, "qkv_bias_separate", False)


def projections(encoder: Encoder, *kinds: tuple[str, ...]) -> list[str]:
    """Names of the projections of these kinds in every attention.

    Args:
        encoder: whose projections are separate, or split.
        kinds: ``QUERY``, ``KEY``, ``VALUE`` or ``OUTPUT`` of :mod:`medept.encoders.patching`.
    """
    wanted = {name for kind in kinds for name in kind}
    return [
        f"{site.name}.{name}"
        for site in encoder.sites
        for name, _ in site.module.named_modules()
        if name.rpartition(".")[2] in wanted
    ]


def last_mlp_layers(encoder: Encoder) -> list[str]:
    """Names of the last linear layer of each MLP, which projects back to the width of tokens."""
    names = {module: name for name, module in encoder.model.named_modules()}
    return [
        names[[m for m in mlp.modules() if isinstance(m, nn.Linear)][-1]] for mlp in encoder.mlps
    ]


def norms(encoder: Encoder) -> list[str]:
    """Names of all layer norms."""
    return [n for n, m in encoder.model.named_modules() if isinstance(m, nn.LayerNorm)]


def add_prefix_tokens(sites: Iterable[AttentionSite], count: int, stack: ExitStack) -> None:
    """Tell attentions that ``count`` more tokens have no place on the grid.

    Rotary embeddings then leave them as they are.
    """
    for site in sites:
        before = getattr(site.module, "num_prefix_tokens", None)
        if isinstance(before, int):
            site.module.num_prefix_tokens = before + count  # type: ignore[assignment]
            stack.callback(setattr, site.module, "num_prefix_tokens", before)
