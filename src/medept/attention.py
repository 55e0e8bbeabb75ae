"""Provisional: the formula alone."""

from __future__ import annotations
import torch
from torch import Tensor


def _logits(q, k, attn_mask, is_causal, scale, enable_gqa):
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    u = q @ k.transpose(-1, -2) * (scale if scale is not None else q.shape[-1] ** -0.5)
    if attn_mask is not None:
        u = (
            u.masked_fill(~attn_mask, float("-inf"))
            if attn_mask.dtype == torch.bool
            else u + attn_mask
        )
    return u


def sink_attention(
    q,
    k,
    v,
    sink,
    *,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    kernel="auto",
) -> Tensor:
    u = _logits(q, k, attn_mask, is_causal, scale, enable_gqa)
    return (u.softmax(-1) @ v) * torch.sigmoid(u.logsumexp(-1) - sink)[..., None]


def prompted_attention(q, k, v, prompt, *, way="concat", **kw) -> Tensor:
    return sink_attention(q, k, v, prompt.logsumexp(-1), **kw)


def gates(
    q, k, sink, *, attn_mask=None, is_causal=False, scale=None, enable_gqa=False, **_
) -> Tensor:
    return torch.sigmoid(
        _logits(q, k, attn_mask, is_causal, scale, enable_gqa).logsumexp(-1) - sink
    )
