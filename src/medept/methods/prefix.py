"""Prefix tuning (Li and Liang, ACL 2021): learnable keys and values in every frozen attention.

The way ``keys`` of EPT learns keys alone, with values of zero: they take a share of the softmax and
add nothing. Here the same keys bring values with them,

    out_i = sigmoid(z_i - s_i) * attention_i + sum_l (share of key l) * value_l,

and so can write into a token what no other token holds (He et al., ICLR 2022, call it a gated sum
with an adapter). VPT's tokens do this too, but are computed on by every block above.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medept.encoders.patching import replace_forward
from medept.ept.config import Layers, parse_layers
from medept.ept.divert import divert_one_call, keep_off_the_fast_path
from medept.ept.operands import prepare
from medept.ept.prompts import KEY_DEVIATION
from medept.ept.sites import AttentionSite, use_sdpa
from medept.methods.base import AdaptedEncoder, MethodSettings


class PrefixTuning(AdaptedEncoder):
    """Trains ``length`` keys and values for each head of each chosen attention: 2 * L * D numbers.

    Keys start as those of EPT's way ``keys`` and values at zero, so that it starts where that does:
    with a gate of about T / (T + L). They are learnt as they are, at the rate of EPT's prompts, and
    not through the small network by which Li and Liang compute them while training.
    """

    class Settings(MethodSettings):
        """Where keys and values are, and how many."""

        length: int = Field(default=4, ge=1)
        """Keys, and values, per head."""

        layers: Layers = "all"
        """The chosen attentions: ``all``, ``first``, or numbers counted from 1 (``9-12``)."""

    name = "prefix"
    summary = "learnable keys and values beside the tokens' own, in every attention"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 3e-2}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"length": (1, 4, 10, 20)}
    settings: Settings

    def insert(self) -> None:
        sites = self.encoder.sites
        self.layers = parse_layers(self.settings.layers, len(sites))
        self.prefixes = nn.ModuleList(
            KeysAndValues(sites[layer], self.settings.length) for layer in self.layers
        )
        use_sdpa(self.encoder.model, self.on_remove)
        for layer, prefix in zip(self.layers, self.prefixes, strict=True):
            _divert(sites[layer].module, prefix, self.on_remove)

    def first_changed_block(self) -> int:
        return self.layers[0]

    def inserted_state(self) -> dict[str, Tensor]:
        return {
            f"prefix.{layer}.{name}": parameter.detach()
            for layer, prefix in zip(self.layers, self.prefixes, strict=True)
            for name, parameter in prefix.named_parameters()
        }


class KeysAndValues(nn.Module):
    """``scaled_dot_product_attention`` with L more keys and values for each head.

    Attributes:
        keys: (H, L, d).
        values: (H, L, d).
    """

    def __init__(self, site: AttentionSite, length: int) -> None:
        super().__init__()
        shape = (site.heads, length, site.width)
        self.keys = nn.Parameter(KEY_DEVIATION * torch.randn(shape))
        self.values = nn.Parameter(torch.zeros(shape))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention (B, H, T, d); the new keys are masked in no row."""
        q, k, v, bias, scale = prepare(
            query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale,
            enable_gqa=enable_gqa,
        )  # fmt: skip
        if bias is not None:
            bias = F.pad(bias.expand(*bias.shape[:-1], k.shape[-2]), (0, self.keys.shape[-2]))
        k, v = (
            torch.cat([own, new.to(own.dtype).expand(len(own), -1, -1, -1)], dim=-2)
            for own, new in ((k, self.keys), (v, self.values))
        )
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale
        )


def _divert(attention: nn.Module, attend: nn.Module, undo: ExitStack) -> None:
    """Let an attention call ``attend`` for ``scaled_dot_product_attention``, until ``undo``."""
    replace_forward(attention, partial(divert_one_call, attend, attention.forward), undo)
    keep_off_the_fast_path(attention, undo)
