"""One attention, forward and backward: plain, by the published formula (L = 100), and medept's.

    python benchmarks/attention.py [--quick] [--bf16] [--json]

The sizes are those of ViT-B: 12 heads of 64, at 197, 577 and 1370 tokens (224, 384 and 518 pixels),
in float32 or bfloat16, in batches of 1 and 4, and on CUDA also of 16. Ratios are to plain
``scaled_dot_product_attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from side_by_side import arguments, peak_bytes, show, time_in_turn
from torch import Tensor

from medept.ept.attention import prompted_attention

HEADS, WIDTH, LENGTH = 12, 64, 100


def by_formula(q: Tensor, k: Tensor, v: Tensor, prompt: Tensor) -> Tensor:
    """The published way: the T x (T + L) softmax, without the entries of the prompt."""
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    prompts = prompt.expand(*logits.shape[:2], -1, -1)
    return torch.cat([prompts, logits], dim=-1).softmax(-1)[..., prompt.shape[-1] :].to(v.dtype) @ v


def plain(q: Tensor, k: Tensor, v: Tensor, prompt: Tensor) -> Tensor:
    """No prompt."""
    return F.scaled_dot_product_attention(q, k, v)


WAYS: dict[str, Callable[..., Tensor]] = {
    "plain": plain,
    "formula": by_formula,
    "fused": partial(prompted_attention, kernel="fused"),
    "extra_key": partial(prompted_attention, kernel="extra_key"),
}


def step(way: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> None:
    """Forward and backward pass; the gradients are dropped."""
    torch.autograd.grad(way(*inputs), inputs, grad, allow_unused=True)


def measure(quick: bool, dtype: torch.dtype) -> Iterator[dict[str, object]]:
    """Yield a row for each size and way."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = (1, 4, 16) if device == "cuda" else (1, 4)
    for tokens in (197, 577) if quick else (197, 577, 1370):
        for batch in (1,) if quick else batches:
            shape = (batch, HEADS, tokens, WIDTH)
            inputs = [
                torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
            ]
            inputs.append(torch.randn(tokens, LENGTH, device=device, requires_grad=True))
            grad = torch.randn(shape, device=device, dtype=dtype)
            runs = {name: partial(step, way, inputs, grad) for name, way in WAYS.items()}
            seconds, ratios = time_in_turn(runs, 5 if quick else 15)
            memory = {name: peak_bytes(run) for name, run in runs.items()}
            for name in WAYS:
                yield {
                    "tokens": tokens,
                    "batch": batch,
                    "way": name,
                    "ms": seconds[name] * 1e3,
                    "time ratio": ratios[name],
                    "peak MB": memory[name] / 1e6,
                    "memory ratio": memory[name] / max(1, memory["plain"]),
                }


if __name__ == "__main__":
    options = arguments(__doc__ or "", bf16="compute in bfloat16")
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    show(measure(options.quick, dtype), options.json)
