"""The last block computes its class token alone, where nothing else of it is read.

Keys and values are made of all tokens; the query, its attention, the output projection and the MLP
of the first token alone. Where such a row is added to all tokens it is right for the first one, and
the others are never read. :mod:`medept.encoders.shortcuts` says how this goes with other shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.encoders.patching import CHANGING_MODULES, FUSED, OUTPUT, QUERY, replace_forward
from medept.encoders.shortcuts import if_suited, is_close, noise
from medept.ept.attach import PromptedAttention
from medept.ept.divert import Divert


@dataclass(frozen=True)
class LastBlock:
    """A block with an ``mlp``, and its attention."""

    block: nn.Module
    attention: nn.Module


def find_last_block(
    features: Callable[[Tensor], Tensor], last: LastBlock, example: Tensor
) -> LastBlock | None:
    """``last`` if its class token is all that is read of it, and can be computed alone; else None.

    Verified on noise: all other rows of the block's output may be NaN, and the features are the
    same with the shortcut. On the meta device nothing is computed, so nothing can be saved.

    Args:
        features: pixels (B, 3, H, W) -> features (B, D), by the encoder without this shortcut.
        last: the last block.
        example: an image (1, 3, H, W).

    Raises:
        RuntimeError: if memory runs out.
    """
    if example.is_meta:
        return None
    return if_suited(partial(_verified, features, last, noise(len(example), example)))


@torch.no_grad()
def _verified(
    features: Callable[[Tensor], Tensor], last: LastBlock, pixels: Tensor
) -> LastBlock | None:
    with ExitStack() as stack:
        stack.enter_context(CHANGING_MODULES)
        stack.callback(last.block.register_forward_hook(_spoil_other_rows).remove)
        if features(pixels).isnan().any():
            return None
    expected = features(pixels)
    with class_token_only(last):
        found = features(pixels)
    return last if is_close(found, expected, pixels) else None


@contextmanager
def class_token_only(last: LastBlock | None, unread: Collection[nn.Module] = ()) -> Iterator[None]:
    """While open, the last block attends, projects and runs its MLP for the first token alone.

    Attention runs whole while it is recorded.

    Args:
        last: the last block; None changes nothing.
        unread: projections whose output nothing reads, which stay as they are.
    """
    if last is None:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(CHANGING_MODULES)
        attention = last.attention
        prompt = attention.embedded_prompt if isinstance(attention, PromptedAttention) else None
        if prompt is None:
            replace_forward(last.attention, _diverted(last.attention.forward), stack)
        elif not prompt.recording:
            replace_forward(prompt, _for_first_query(prompt.forward), stack)
        if prompt is None or not prompt.recording:
            for fused in _children(last.attention, FUSED):
                # a subclass may compute by a formula of its own
                if type(fused) is nn.Linear and fused not in unread:
                    replace_forward(fused, _query_of_first_row(fused), stack)
            for query in _children(last.attention, QUERY):
                if query not in unread:
                    replace_forward(query, _in_every_row(query.forward), stack)
        for part in (*_children(last.attention, OUTPUT), last.block.mlp):
            stack.callback(part.register_forward_pre_hook(_first_row).remove)  # type: ignore[union-attr]
        yield


def _children(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name in names]


def _spoil_other_rows(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
    """Tokens (B, T, D) -> NaN in all rows but the first."""
    return torch.cat([tokens[:, :1], torch.full_like(tokens[:, 1:], torch.nan)], dim=1)


def _first_row(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[0][:, :1], *arguments[1:]


def _diverted(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An attention module's ``forward``, attending for the first query alone."""

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with Divert(_for_first_query(F.scaled_dot_product_attention)):
            return forward(*args, **kwargs)

    return attend


def _for_first_query(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An attention that computes its first row alone, and repeats it in every row."""

    def first(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = attend(query[..., :1, :], *args, **kwargs)
        return output.expand(*output.shape[:-2], query.shape[-2], -1)

    return first


def _in_every_row(project: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A projection (B, T, D) -> (B, T, D') that computes its first row alone, and repeats it."""
    return lambda tokens: project(tokens[:, :1]).expand(-1, tokens.shape[1], -1)


def _query_of_first_row(qkv: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A fused projection (D -> 3 D) that computes the query of the first row, and repeats it."""
    width = qkv.out_features // 3

    def project(tokens: Tensor) -> Tensor:
        query, key_value = (
            F.linear(rows, qkv.weight[part], None if qkv.bias is None else qkv.bias[part])
            for rows, part in ((tokens[:, :1], slice(width)), (tokens, slice(width, None)))
        )
        return torch.cat([query.expand(-1, tokens.shape[1], -1), key_value], dim=-1)

    return project
