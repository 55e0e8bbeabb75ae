"""Watches one forward pass of a model: which modules attend, how, and over what maps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medept.ept.divert import multi_head_operands
from medept.ept.grid import Grid
from medept.ept.operands import prepare
from medept.errors import EncoderError

POOLING = "a single query, as in pooling"
OWN_SOFTMAX = "its own softmax, not scaled_dot_product_attention"
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@dataclass
class Call:
    """One call of attention.

    Attributes:
        name: of the module that attends, within the model.
        module: that module.
        heads: H.
        tokens: T, the number of queries.
        width: d, the numbers in one head's query.
        why_not: why no prompt can act in it; empty if one can.
        rows: the queries of the first image and head, (T, d).
        maps: how many convolutions had run before it.
    """

    name: str
    module: nn.Module
    heads: int = 0
    tokens: int = 0
    width: int = 0
    why_not: str = ""
    rows: Tensor | None = None
    maps: int = 0


class EnoughSeen(Exception):  # noqa: N818 (it ends a forward pass, and is no error)
    """The calls that were asked for have been seen."""


class Survey(TorchFunctionMode):
    """While it is open, notes each call of attention and the size of each convolution's output.

    Args:
        model: what will run.
        until: end the pass by :class:`EnoughSeen` once so many calls have been seen.

    Attributes:
        calls: in order of execution.
        maps: each convolution, and the rows and columns of its output.
    """

    def __init__(self, model: nn.Module, until: int | None = None) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.maps: list[tuple[nn.Module, Grid]] = []
        self._model, self._until = model, until
        self._running: list[tuple[str, nn.Module]] = []
        self._hooks = ExitStack()

    def __enter__(self) -> Survey:
        for name, module in self._model.named_modules():
            enter = module.register_forward_pre_hook(self._entering(name))
            leave = module.register_forward_hook(self._leaving, always_call=True)
            self._hooks.callback(enter.remove)
            self._hooks.callback(leave.remove)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._hooks.close()

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda module, _: self._running.append((name, module))

    def _leaving(self, module: nn.Module, _: Any, output: Any) -> None:
        if self._running:
            self._running.pop()
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            self.maps.append((module, (output.shape[-2], output.shape[-1])))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._attends(*args, **kwargs)
        elif func is F.multi_head_attention_forward:
            self._attends_with_projections(*args, **kwargs)
        elif func in _SOFTMAX and isinstance(args[0], Tensor):
            self._softmax(args[0])
        return func(*args, **kwargs)

    def _attends(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        _dropout: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> None:
        options.pop("dropout_p", None)
        call = self._noted()
        if query.ndim != 4:
            call.why_not = f"queries of {query.ndim} dimensions, not (B, H, T, d)"
            return
        call.heads, call.tokens, call.width = query.shape[1:]
        call.rows = query.detach()[0, 0].clone()
        call.why_not = _numbers(call.tokens, key.shape[-2]) or _over_channels(call, value)
        if query.is_meta:  # which autocast does not know
            return
        try:
            prepare(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **options)
        except ValueError:
            call.why_not = call.why_not or "queries and keys of different heads or widths"

    def _attends_with_projections(self, query: Tensor, key: Tensor, *args: Any, **kw: Any) -> None:
        call = self._noted()
        call.heads, call.tokens, call.width = args[2], len(query), query.shape[-1] // args[2]
        call.why_not = _numbers(call.tokens, key.shape[0])
        if call.why_not:
            return
        try:
            multi_head_operands(query, key, *args, **kw)
        except EncoderError as error:
            call.why_not = str(error)
        call.rows = query.detach()[:, 0].clone()

    def _softmax(self, logits: Tensor) -> None:
        square = logits.ndim > 2 and logits.shape[-1] == logits.shape[-2] > 1
        if square and self._running:
            self._noted().why_not = OWN_SOFTMAX

    def _noted(self) -> Call:
        if self._until is not None and len(self.calls) >= self._until:
            raise EnoughSeen
        call = Call(*self._running[-1], maps=len(self.maps))
        self.calls.append(call)
        return call


def _numbers(queries: int, keys: int) -> str:
    if queries == 1:
        return POOLING
    if keys != queries:
        return f"{'fewer' if keys < queries else 'more'} keys than queries"
    return ""


def _over_channels(call: Call, value: Tensor) -> str:
    """Whether H x T, not H x d, is the width that the attention's own layers have."""
    layers = [m for m in call.module.children() if isinstance(m, nn.Linear)]
    widths = {width for layer in layers for width in (layer.in_features, layer.out_features)}
    tokens, values = call.heads * call.tokens, call.heads * value.shape[-1]
    return "attention over channels" if tokens in widths and values not in widths else ""
