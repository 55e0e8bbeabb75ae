"""What prompted attention holds in memory and runs, beside plain attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from equation_5 import (
    inputs,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medept.ept.attention import prompted_attention, sink_attention


class Largest(TorchDispatchMode):
    """Elements of the largest tensor made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *made])
        return result


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "keys"])
def test_never_holds_the_logits(way: str) -> None:
    tokens, width = 1024, 8
    q, k, v = (torch.randn(1, 1, tokens, width, requires_grad=True) for _ in range(3))
    p = torch.randn((1, 4, width) if way == "keys" else (tokens, 4), requires_grad=True)
    with Largest() as largest:
        prompted_attention(q, k, v, p, way=way).sum().backward()
    assert largest.elements <= tokens * 256


def held(run: Any) -> int:
    """The most bytes that ``run`` holds at once."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_training_and_inference_hold_what_plain_attention_holds() -> None:
    q, k, v = (torch.randn(4, 12, 197, 64, requires_grad=True) for _ in range(3))
    sink, grad = torch.zeros(12, 197, requires_grad=True), torch.randn(4, 12, 197, 64)
    plain = held(lambda: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v),
                                             (q, k, v), grad))  # fmt: skip
    ours = held(lambda: torch.autograd.grad(sink_attention(q, k, v, sink), (q, k, v, sink), grad))
    assert 0 < ours <= 1.05 * plain
    with torch.no_grad():
        plain = held(lambda: F.scaled_dot_product_attention(q, k, v))
        ours = held(lambda: sink_attention(q, k, v, sink))
    assert 0 < ours <= 1.05 * plain


def test_a_frozen_encoder_needs_no_attention_backward() -> None:
    q, k, v, p = inputs()
    out = prompted_attention(q.detach(), k.detach(), v.detach(), p)
    with torch.profiler.profile() as profile:
        out.sum().backward()
    assert not [e.name for e in profile.events() if "attention" in e.name]
