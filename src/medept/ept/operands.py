"""Queries, keys, values and masks, checked and brought into the form that every kernel takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """What attention computes on.

    Attributes:
        q: queries (B, H, T, d).
        k: keys (B, H, S, d), as many heads as queries.
        v: values (B, H, S, e).
        bias: added to the logits, broadcastable to (B, H, T, S): -inf where a key is masked; None
            without a mask.
        scale: the factor in the logits u = scale * q . k.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    scale: float


def prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Operands:
    """Operands from the arguments of ``torch.nn.functional.scaled_dot_product_attention``.

    Where autocast is on they get its dtype, as in PyTorch's own attention.

    Raises:
        ValueError: if the shapes do not fit together (the fused kernels would read memory that is
            not theirs), or for ``attn_mask`` together with ``is_causal``.
    """
    shapes = [tuple(x.shape) for x in (q, k, v)]
    q, k, v = _in_the_dtype_of_autocast(q, k, v)
    if enable_gqa and q.ndim == k.ndim == v.ndim == 4:
        k, v = (_once_per_query_head(x, q.shape[1]) for x in (k, v))
    same = q.shape == k.shape == v.shape
    fit = same or (
        q.shape[:-2] == k.shape[:-2] and q.shape[-1] == k.shape[-1] and k.shape[:-1] == v.shape[:-1]
    )
    if q.ndim != 4 or not fit:
        raise ValueError(
            f"queries {shapes[0]}, keys {shapes[1]} and values {shapes[2]} do not fit: they must "
            "be (B, H, T, d), (B, H, S, d) and (B, H, S, e), or have fewer key heads with "
            "enable_gqa"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return Operands(_dense(q), _dense(k), _dense(v), _bias(q, k, attn_mask, is_causal), scale)


def logits(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """u = scale * q . k + bias: (B, H, T, S)."""
    u = (q * scale) @ k.transpose(-1, -2)
    return u if bias is None else u + bias


def precise(q: Tensor) -> torch.dtype:
    """The dtype of sinks and logsumexps: float32, or float64 if the queries are."""
    return torch.promote_types(q.dtype, torch.float32)


def learns(mask: Tensor | None) -> bool:
    """Whether a mask is itself trained."""
    return mask is not None and mask.requires_grad and torch.is_grad_enabled()


def first(count: int, x: Tensor) -> Tensor:
    """The first ``count`` entries of the last dimension; ``x`` itself if it has no more."""
    return x if x.shape[-1] == count else x[..., :count]


def _in_the_dtype_of_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device) or tensors[0].dtype == torch.float64:
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def _once_per_query_head(x: Tensor, heads: int) -> Tensor:
    """Keys or values of grouped queries, repeated: query heads that share them are neighbours."""
    return x.repeat_interleave(heads // x.shape[1], 1) if 0 < x.shape[1] < heads else x


def _dense(x: Tensor) -> Tensor:
    """With each row's numbers next to each other in memory: the fused kernels do not check."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _bias(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    if is_causal:
        if mask is not None:
            raise ValueError("attn_mask and is_causal exclude each other: put both into attn_mask")
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return None
    mask = mask if mask.ndim > 1 else mask[None]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    lowest = torch.finfo(mask.dtype).min
    return mask.masked_fill(mask == lowest, float("-inf")).to(q.dtype)
