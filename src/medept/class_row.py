"""Less of the last block is computed where its class token is all that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.attachment import Divert

_ONE_AT_A_TIME = RLock()
"""Modules are changed while they compute: threads take turns."""


@contextmanager
def class_row_only(model: nn.Module) -> Iterator[None]:
    """While it is open the last block attends, projects and runs its MLP for the class token alone.

    Nothing else of that block is read where the features are the class token. Both parts are
    added to the tokens: their one row, broadcast, is right for the class token, and the other
    rows, which are wrong, are never looked at. Keys and values are made of all tokens, the query of
    that one. Exact for timm's plain vision transformers; others run whole. Attention runs whole
    where gates or attention are recorded.
    """
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import Block, VisionTransformer

    plain = isinstance(model, VisionTransformer) and not isinstance(
        model, VisionTransformerDistilled
    )
    last: Any = model.blocks[-1] if plain and model.global_pool == "token" else None  # type: ignore[index]
    if type(last) is not Block:
        yield
        return

    def first_row(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return arguments[0][:, :1], *arguments[1:]

    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        prompt = getattr(last.attn, "embedded_prompt", None)
        recording = prompt is not None and prompt.recording
        if prompt is None:
            replace_forward(last.attn, _diverted(last.attn.forward), stack)
        elif not recording:
            replace_forward(prompt, _of_first_row(prompt.forward), stack)
        fused = last.attn.qkv
        if type(fused) is nn.Linear and "forward" not in vars(fused) and not recording:
            replace_forward(fused, _query_of_first_row(fused), stack)
        for part in (last.attn.proj, last.mlp):
            stack.callback(part.register_forward_pre_hook(first_row).remove)
        yield


def replace_forward(module: nn.Module, forward: Callable[..., Tensor], stack: ExitStack) -> None:
    """Let ``module`` compute by ``forward`` until ``stack`` is closed."""
    before = vars(module).get("forward")
    module.forward = forward
    if before is None:
        stack.callback(delattr, module, "forward")
    else:
        stack.callback(setattr, module, "forward", before)


def _diverted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with Divert(_of_first_row(F.scaled_dot_product_attention)):
            return forward(*args, **kwargs)

    return attend


def _of_first_row(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An attention whose first row alone is computed, and stands in every row."""

    def first(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = attend(query[..., :1, :], *args, **kwargs)
        return output.expand(*output.shape[:-2], query.shape[-2], -1)

    return first


def _query_of_first_row(qkv: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A fused projection (D -> 3 D) whose query is the first token's, and stands in every row."""
    width = qkv.out_features // 3

    def project(tokens: Tensor) -> Tensor:
        query, key_value = (
            F.linear(rows, qkv.weight[part], None if qkv.bias is None else qkv.bias[part])
            for rows, part in ((tokens[:, :1], slice(width)), (tokens, slice(width, None)))
        )
        return torch.cat([query.expand(-1, tokens.shape[1], -1), key_value], dim=-1)

    return project
