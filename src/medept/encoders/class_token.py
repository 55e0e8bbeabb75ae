"""Less of the last block is computed where its class token is all that is read.

Nothing but the first token of that block is read where the features are made of it. Keys and
values are made of all tokens; the query, what attention makes of it, its projection and the MLP of
the first alone. Where such a row is added to all tokens it is right for the first, and the others,
which are wrong, are never looked at. It is exact, and knows no architecture: an encoder is tried
once, with all other rows of its last block spoilt, and with that shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.encoders.equivalence import is_close, noise
from medept.encoders.patching import FUSED, OUTPUT, QUERY, replace_forward
from medept.ept.attach import PromptedAttention
from medept.ept.divert import Divert

_ONE_AT_A_TIME = RLock()
"""Modules are changed while they compute: threads take turns."""


@dataclass(frozen=True)
class LastBlock:
    """A block with an ``mlp``, and its attention."""

    block: nn.Module
    attention: nn.Module


@torch.no_grad()
def find_last_block(
    features: Callable[[Tensor], Tensor], last: LastBlock, example: Tensor
) -> LastBlock | None:
    """``last`` if the shortcut is exact for it, else None: tried on noise of an example's shape.

    On the meta device, where nothing is computed, there is nothing to try and nothing to save.

    Args:
        features: pixels (B, 3, H, W) -> features (B, D), by the encoder as it is.
    """

    if example.is_meta:
        return None

    def spoil(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :1], torch.full_like(tokens[:, 1:], torch.nan)], dim=1)

    pixels = noise(len(example), example)
    try:
        with ExitStack() as stack:
            stack.enter_context(_ONE_AT_A_TIME)
            stack.callback(last.block.register_forward_hook(spoil).remove)
            if features(pixels).isnan().any():
                return None
        expected = features(pixels)
        with class_row_only(last):
            found = features(pixels)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None
    return last if is_close(found, expected, pixels) else None


@contextmanager
def class_row_only(last: LastBlock | None) -> Iterator[None]:
    """While it is open the last block attends, projects and runs its MLP for the first token alone.

    Attention runs whole where gates or attention are recorded; all does where ``last`` is None.
    """
    if last is None:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        attention = last.attention
        prompt = attention.embedded_prompt if isinstance(attention, PromptedAttention) else None
        if prompt is None:
            replace_forward(last.attention, _diverted(last.attention.forward), stack)
        elif not prompt.recording:
            replace_forward(prompt, _of_first_query(prompt.forward), stack)
        if prompt is None or not prompt.recording:
            for fused in _children(last.attention, FUSED):
                if type(fused) is nn.Linear and "forward" not in vars(fused):
                    replace_forward(fused, _query_of_first_row(fused), stack)
            for query in _children(last.attention, QUERY):
                replace_forward(query, _in_every_row(query.forward), stack)
        for part in (*_children(last.attention, OUTPUT), last.block.mlp):
            stack.callback(part.register_forward_pre_hook(_first_row).remove)  # type: ignore[union-attr]
        yield


def _children(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name in names]


def _first_row(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[0][:, :1], *arguments[1:]


def _diverted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with Divert(_of_first_query(F.scaled_dot_product_attention)):
            return forward(*args, **kwargs)

    return attend


def _of_first_query(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An attention whose first row alone is computed, and stands in every row."""

    def first(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = attend(query[..., :1, :], *args, **kwargs)
        return output.expand(*output.shape[:-2], query.shape[-2], -1)

    return first


def _in_every_row(project: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A projection (B, T, D) -> (B, T, D') whose first row alone is computed."""
    return lambda tokens: project(tokens[:, :1]).expand(-1, tokens.shape[1], -1)


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
