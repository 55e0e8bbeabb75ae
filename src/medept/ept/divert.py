"""Sends a model's calls of ``scaled_dot_product_attention`` to another function."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
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

    Attributes:
        calls: how many calls were diverted.
    """

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self._attend = attend
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            self.calls += 1
            return _multi_head_attention(self._attend, *args, **kwargs)
        return func(*args, **kwargs)


def divert_one_call(attend: Callable[..., Tensor], forward: Callable[..., Any], *args: Any,
                    **kwargs: Any) -> Any:  # fmt: skip
    """``forward(*args, **kwargs)``, whose one call of attention goes to ``attend``.

    Raises:
        EncoderError: if it makes none, and so ran without the prompt, or more than one.
    """
    divert = Divert(attend)
    with divert:
        output = forward(*args, **kwargs)
    if divert.calls == 0:
        raise EncoderError(
            "a prompted attention ran without its prompt, because it did not call "
            "scaled_dot_product_attention. Set it back "
            "(model.set_attn_implementation('sdpa'), fused_attn = True), or detach the prompts"
        )
    if divert.calls > 1:
        raise EncoderError(
            f"a prompted attention attended {divert.calls} times in one call, with one prompt: "
            "choose other layers"
        )
    return output


def keep_off_the_fast_path(attention: nn.Module, undo: ExitStack) -> None:
    """Let ``nn.TransformerEncoderLayer`` call its attention in ``eval()`` too, until ``undo``.

    Where its attention has no hook, it passes the weights to one fused operator, and nothing that
    is put into the attention would act.
    """
    if isinstance(attention, nn.MultiheadAttention):
        undo.callback(attention.register_forward_pre_hook(_do_nothing).remove)


def _do_nothing(*_: Any) -> None:
    """A hook that can be pickled with its module."""


def _multi_head_attention(
    attend: Callable[..., Tensor], query: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """``torch.nn.functional.multi_head_attention_forward`` for self-attention on (T, B, D)."""
    qkv, options, project = multi_head_operands(query, *args, **kwargs)
    output = attend(*qkv, **options)
    tokens, batch, width = query.shape
    return F.linear(output.permute(2, 0, 1, 3).reshape(tokens, batch, width), *project), None


def multi_head_operands(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
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
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    **_: Any,
) -> tuple[tuple[Tensor, ...], dict[str, Any], tuple[Tensor, Tensor | None]]:
    """What ``multi_head_attention_forward`` attends with.

    Returns:
        Query, key and value, each (B, H, T, d); the options of ``scaled_dot_product_attention``;
        weight and bias of the output projection.

    Raises:
        EncoderError: for what prompts cannot serve.
    """
    extra = bias_k is not None or static_k is not None or static_v is not None or add_zero_attn
    if key_padding_mask is not None or extra or need_weights or query.ndim != 3:
        raise EncoderError(
            "nn.MultiheadAttention can be prompted only without key padding and extra keys, and "
            "with need_weights=False"
        )
    if in_weight is not None:
        weights: Any = in_weight.chunk(3)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    biases: Any = (None,) * 3 if in_bias is None else in_bias.chunk(3)
    if in_weight is not None and query is key and key is value:
        projected = F.linear(query, in_weight, in_bias).chunk(3, -1)
    else:
        projected = tuple(map(F.linear, (query, key, value), weights, biases))
    qkv = tuple(x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in projected)
    options = {
        "attn_mask": _of_rank_4(attn_mask, heads),
        "dropout_p": dropout if training else 0.0,
        "is_causal": is_causal and attn_mask is None,
    }
    return qkv, options, (out_weight, out_bias)


def _of_rank_4(mask: Tensor | None, heads: int) -> Tensor | None:
    """A mask for each image and head, (B H, T, S), as (B, H, T, S); others stay as they are."""
    return mask.unflatten(0, (-1, heads)) if mask is not None and mask.ndim == 3 else mask
