"""Sends a model's calls of ``scaled_dot_product_attention`` to another function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medept.errors import EncoderError


class Divert(TorchFunctionMode):
    """While it is open, ``attend`` is called in place of ``scaled_dot_product_attention``.

    ``torch.nn.MultiheadAttention`` calls another function, which is served as well.

    >>> import torch
    >>> with Divert(lambda query, key, value, **_: torch.zeros_like(value)):
    ...     F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 2, 4)).sum()
    tensor(0.)

    Args:
        attend: takes and returns what ``scaled_dot_product_attention`` does.
    """

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self._attend = attend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return _multi_head_attention(self._attend, *args, **kwargs)
        return func(*args, **kwargs)


def _multi_head_attention(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """``torch.nn.functional.multi_head_attention_forward`` for self-attention on (T, B, D)."""
    if key_padding_mask is not None or bias_k is not None or add_zero_attn or need_weights:
        raise EncoderError(
            "nn.MultiheadAttention can be prompted only without key padding and extra keys, and "
            "with need_weights=False"
        )
    tokens, batch, _width = query.shape
    projected = F.linear(query, in_weight, in_bias).reshape(tokens, batch, 3, heads, -1)
    output = attend(
        *projected.permute(2, 1, 3, 0, 4),  # three of (B, H, T, d)
        attn_mask=attn_mask,
        dropout_p=dropout if training else 0.0,
        is_causal=is_causal and attn_mask is None,
    )
    output = output.permute(2, 0, 1, 3).reshape(tokens, batch, width)
    return F.linear(output, out_weight, out_bias), None
