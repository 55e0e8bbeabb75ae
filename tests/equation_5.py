"""Prompted attention written out as in the paper: what the fast code is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNELS = ("formula", "fused", "extra_key")
B, H, T, D, L = 2, 3, 7, 5, 4


def reference(
    q: Tensor, k: Tensor, v: Tensor, prompt: Tensor, way: str, mask: Tensor | None, scale: float
) -> Tensor:
    """The paper's Figure 5, each way written out, for a prompt (T, L) or (H, T, L); and the way
    ``keys``, for keys (H, L, D)."""
    u = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    keep = torch.ones_like(u, dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        keep = mask.expand_as(u)
    elif mask is not None and way != "multiply":
        u = u + mask
    if way == "keys":
        p = torch.einsum("bhid,hld->bhil", q, prompt) * scale
    else:
        p = prompt.expand(u.shape[0], u.shape[1], -1, -1)
    if way == "multiply_concat":
        top = u.masked_fill(~keep, -1e300).max(-1, keepdim=True).values
        low = u.masked_fill(~keep, 1e300).min(-1, keepdim=True).values
        p = p * (top - low)
    if way == "add":
        u = u + p
    if way == "multiply":
        u = u * p if mask is None or mask.dtype == torch.bool else u * p + mask
    u = u.masked_fill(~keep, float("-inf"))
    if way.endswith("concat") or way == "keys":
        return torch.cat([u, p], dim=-1).softmax(-1)[..., : u.shape[-1]] @ v
    return u.softmax(-1) @ v


def inputs(
    dtype: torch.dtype = torch.float64, keys: int = T, length: int = L, per_head: bool = False,
    way: str = "concat",
) -> list[Tensor]:  # fmt: skip
    """Queries (B, H, T, D), keys and values (B, H, keys, D), and a prompt; all to be trained."""
    random = torch.Generator().manual_seed(0)
    prompt: tuple[int, ...] = (H, T, length) if per_head else (T, length)
    if way == "keys":
        prompt = (H, length, D)
    shapes = [(B, H, T, D), (B, H, keys, D), (B, H, keys, D), prompt]
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
            for s in shapes]  # fmt: skip


def mask_of(kind: str, keys: int) -> Tensor | None:
    """A mask of the kind ``none``, ``bool`` (no row without keys) or ``float``."""
    random = torch.Generator().manual_seed(1)
    if kind == "bool":
        mask = torch.rand(T, keys, generator=random) < 0.6
        mask[:, 0] = True
        return mask
    if kind == "float":
        return torch.randn(B, 1, T, keys, generator=random, dtype=torch.float64)
    return None


def compare(
    actual: Tensor, expected: Tensor, ours: list[Tensor], theirs: list[Tensor], atol: float
) -> None:
    """Outputs, and the gradients of a weighted sum of them with respect to the inputs."""
    weights = torch.randn(
        expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
    got = torch.autograd.grad((actual.double() * weights).sum(), ours)
    want = torch.autograd.grad((expected * weights).sum(), theirs)
    for name, a, b in zip("qkvp", got, want, strict=True):
        torch.testing.assert_close(
            a.double(), b, rtol=0, atol=atol, msg=lambda m, n=name: f"d{n}: {m}"
        )


def forward_by_formula(
    model: nn.Module, pixels: Tensor, prompts: dict[int, Tensor], way: str = "concat"
) -> Tensor:
    """A timm ViT's features with the prompted attention written out."""
    x = model._pos_embed(model.patch_embed(pixels))
    for i, block in enumerate(model.blocks):
        attention = block.attn
        normed = block.norm1(x)
        batch, tokens, width = normed.shape
        qkv = attention.qkv(normed).reshape(batch, tokens, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        no_prompt = q.new_full((tokens, 1), float("-inf"))
        prompt = prompts.get(i, no_prompt)
        out = reference(
            q, k, v, prompt, way if i in prompts else "concat", None, q.shape[-1] ** -0.5
        )
        x = x + attention.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        x = x + block.mlp(block.norm2(x))
    return model.norm(x)[:, 0]
