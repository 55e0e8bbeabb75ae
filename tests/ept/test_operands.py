"""Shapes, masks, layouts and dtypes: what is taken, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from equation_5 import (
    KERNELS,
    B,
    D,
    H,
    L,
    T,
    compare,
    inputs,
    reference,
)

from medept.ept.attention import WAYS, gates, prompted_attention, sink_attention, sink_of_keys


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["concat", "keys"])
def test_per_head_causal_and_grouped_queries(kernel: str, way: str) -> None:
    q, k, v, p = inputs(per_head=True, way=way)
    ours = [q, k[:, :1].detach().requires_grad_(), v[:, :1].detach().requires_grad_(), p]
    theirs = [x.detach().requires_grad_() for x in ours]
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    repeated = [theirs[0], theirs[1].repeat(1, H, 1, 1), theirs[2].repeat(1, H, 1, 1), theirs[3]]
    actual = prompted_attention(*ours, way=way, kernel=kernel, is_causal=True, enable_gqa=True)
    compare(actual, reference(*repeated, way, causal, D**-0.5), ours, theirs, 1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_of_queries_share_keys_in_order(kernel: str) -> None:
    """Which key head a query head reads is PyTorch's choice."""
    q, k, v = (torch.randn(B, heads, T, D, dtype=torch.float64) for heads in (6, 2, 2))
    sink = torch.randn(T, dtype=torch.float64)
    actual = sink_attention(q, k, v, sink, kernel=kernel, enable_gqa=True)
    plain = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    gate = gates(q, k, sink, enable_gqa=True)
    torch.testing.assert_close(actual, plain * gate[..., None])


Q, K = (2, 6, T, D), (2, 6, 9, D)


MISFITS = [
    ("heads without enable_gqa", Q, (2, 3, 9, D), (2, 3, 9, D), False),
    ("heads that do not divide", Q, (2, 4, 9, D), (2, 4, 9, D), True),
    ("more key heads", Q, (2, 12, 9, D), (2, 12, 9, D), True),
    ("batch", Q, (1, 6, 9, D), (1, 6, 9, D), False),
    ("fewer values than keys", Q, K, (2, 6, 8, D), False),
    ("width", Q, (2, 6, 9, D + 1), K, False),
    ("rank", Q[1:], K[1:], K[1:], False),
]


@pytest.mark.parametrize("kernel", ["auto", *KERNELS])
@pytest.mark.parametrize(
    ("q", "k", "v", "gqa"), [m[1:] for m in MISFITS], ids=[m[0] for m in MISFITS]
)
def test_shapes_that_do_not_fit_are_refused(
    kernel: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], gqa: bool
) -> None:
    """The fused kernels check no shapes themselves: they would read beyond the end."""
    qkv = [torch.zeros(shape) for shape in (q, k, v)]
    with pytest.raises(ValueError, match="do not fit"):
        sink_attention(*qkv, torch.zeros(T), kernel=kernel, enable_gqa=gqa)


SHAPES = [(9,), (1, 9), (T, 1), (B, 1, 1, 9), (H, T, 9), (B, H, T, 9)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_that_broadcast(kernel: str, shape: tuple[int, ...]) -> None:
    ours = [x.detach() for x in inputs(keys=9)]
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.6
    mask[..., :1] = True
    whole = mask.expand(B, H, T, 9)
    expected = reference(*ours, "concat", whole, D**-0.5)
    actual = prompted_attention(*ours, attn_mask=mask, kernel=kernel)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    u = (ours[0] @ ours[1].mT * D**-0.5).masked_fill(~whole, float("-inf"))
    torch.testing.assert_close(
        gates(ours[0], ours[1], ours[3].logsumexp(-1), attn_mask=mask),
        1 / (1 + ours[3].exp().sum(-1) / u.exp().sum(-1)),
    )


def test_causal_excludes_a_mask() -> None:
    q, k, v, p = inputs()
    with pytest.raises(ValueError, match="put both into attn_mask"):
        prompted_attention(q, k, v, p, is_causal=True, attn_mask=torch.ones(T, T).bool())


@pytest.mark.parametrize("way", WAYS)
def test_the_lowest_number_masks_as_minus_infinity_does(way: str) -> None:
    ours = [x.detach() for x in inputs(torch.float32, length=T, way=way)]
    keep = torch.rand(T, T, generator=torch.Generator().manual_seed(1)) < 0.6
    keep[2] = False
    low = torch.zeros(T, T).masked_fill(~keep, torch.finfo(torch.float32).min)
    expected = prompted_attention(*ours, way=way, attn_mask=keep)
    torch.testing.assert_close(prompted_attention(*ours, way=way, attn_mask=low), expected)


@pytest.mark.parametrize("way", ["concat", "keys"])
@pytest.mark.parametrize("kernel", ["auto", "formula", "fused", "extra_key"])
def test_autocast_takes_what_plain_attention_takes(kernel: str, way: str) -> None:
    """Query and key norms leave float32 beside bfloat16 values."""
    q, k, v, p = inputs(torch.float32, way=way)
    with torch.autocast("cpu", torch.bfloat16):
        out = prompted_attention(q, k, v.bfloat16(), p, way=way, kernel=kernel)
        sink = sink_of_keys(q, p) if way == "keys" else p.logsumexp(-1)
        assert sink.dtype == gates(q, k, sink).dtype == torch.float32
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.sum(), (q, k, v, p))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    expected = reference(*(x.double() for x in (q, k, v, p)), way, None, D**-0.5)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_wider_or_narrower_than_keys(kernel: str) -> None:
    q, k, v, p = (x.detach() for x in inputs())
    for values in (v[..., :3], torch.cat([v, v], -1)):
        actual = prompted_attention(q, k, values, p, kernel=kernel)
        assert actual.shape == (B, H, T, values.shape[-1])
        torch.testing.assert_close(actual, reference(q, k, values, p, "concat", None, D**-0.5))


@pytest.mark.parametrize("kernel", KERNELS)
def test_layout_of_a_fused_projection(kernel: str) -> None:
    """q, k and v as timm makes them: strided views of one tensor."""
    qkv = torch.randn(B, T, 3, H, D, dtype=torch.float64).permute(2, 0, 3, 1, 4)
    p = torch.randn(T, L, dtype=torch.float64)
    actual = prompted_attention(*qkv.unbind(0), p, kernel=kernel)
    torch.testing.assert_close(actual, reference(*qkv, p, "concat", None, D**-0.5))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("which", range(3))
def test_rows_that_are_not_side_by_side_in_memory(kernel: str, which: int) -> None:
    """The fused kernel takes the numbers of a row to be neighbours, and does not look."""
    *qkv, p = (x.detach() for x in inputs(torch.float64))
    qkv[which] = qkv[which].mT.contiguous().mT
    assert qkv[which].stride(-1) != 1
    actual = prompted_attention(*qkv, p, kernel=kernel)
    torch.testing.assert_close(actual, reference(*qkv, p, "concat", None, D**-0.5))
