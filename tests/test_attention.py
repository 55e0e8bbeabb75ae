"""Every kernel and way against equation 5 written out in float64, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medept.attention import choose_kernel, gates, prompted_attention, sink_attention

KERNELS = ("formula", "fused", "extra_key", "flex")
B, H, T, D, L = 2, 3, 7, 5, 4


def reference(
    q: Tensor, k: Tensor, v: Tensor, prompt: Tensor, way: str, mask: Tensor | None, scale: float
) -> Tensor:
    """The paper's Figure 5, each way written out."""
    u = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    keep = torch.ones_like(u, dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        keep = mask.expand_as(u)
    elif mask is not None and way != "multiply":
        u = u + mask
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
    if way.endswith("concat"):
        return torch.cat([u, p], dim=-1).softmax(-1)[..., : u.shape[-1]] @ v
    return u.softmax(-1) @ v


def inputs(
    dtype: torch.dtype = torch.float64, keys: int = T, length: int = L, per_head: bool = False
) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(B, H, T, D), (B, H, keys, D), (B, H, keys, D),
              (H, T, length) if per_head else (T, length)]  # fmt: skip
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
            for s in shapes]  # fmt: skip


def mask_of(kind: str, keys: int) -> Tensor | None:
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
    weights = torch.randn(
        expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
    if not actual.requires_grad:  # FlexAttention has no backward on the CPU
        return
    got = torch.autograd.grad((actual.double() * weights).sum(), ours)
    want = torch.autograd.grad((expected * weights).sum(), theirs)
    for name, a, b in zip("qkvp", got, want, strict=True):
        torch.testing.assert_close(
            a.double(), b, rtol=0, atol=atol, msg=lambda m, n=name: f"d{n}: {m}"
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_kernels_equal_equation_5(
    kernel: str, way: str, mask: str, dtype: torch.dtype, atol: float
) -> None:
    ours = inputs(dtype, keys=9)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    attn_mask = mask_of(mask, 9)
    given_mask = (
        attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(dtype)
    )
    ours = [x.detach() for x in ours] if kernel == "flex" else ours
    actual = prompted_attention(*ours, way=way, kernel=kernel, attn_mask=given_mask, scale=0.7)
    compare(actual, reference(*theirs, way, attn_mask, 0.7), ours, theirs, atol)


@pytest.mark.parametrize("way", ["add", "multiply"])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_ways_that_change_the_logits(way: str, mask: str, dtype: torch.dtype, atol: float) -> None:
    ours = inputs(dtype, length=T)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    attn_mask = mask_of(mask, T)
    given_mask = (
        attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(dtype)
    )
    actual = prompted_attention(*ours, way=way, attn_mask=given_mask)
    compare(actual, reference(*theirs, way, attn_mask, D**-0.5), ours, theirs, atol)


@pytest.mark.parametrize("kernel", KERNELS)
def test_per_head_causal_and_grouped_queries(kernel: str) -> None:
    q, k, v, p = inputs(per_head=True)
    ours = [q, k[:, :1].detach().requires_grad_(), v[:, :1].detach().requires_grad_(), p]
    theirs = [x.detach().requires_grad_() for x in ours]
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    repeated = [theirs[0], theirs[1].repeat(1, H, 1, 1), theirs[2].repeat(1, H, 1, 1), theirs[3]]
    ours = [x.detach() for x in ours] if kernel == "flex" else ours
    actual = prompted_attention(*ours, kernel=kernel, is_causal=True, enable_gqa=True)
    compare(actual, reference(*repeated, "concat", causal, D**-0.5), ours, theirs, 1e-10)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 5), st.sampled_from(KERNELS), st.integers(0, 99))
def test_any_shape(shape: tuple[int, ...], kernel: str, seed: int) -> None:
    heads, tokens, keys, width, length = shape
    random = torch.Generator().manual_seed(seed)
    q, k, v, p = (torch.randn(s, generator=random, dtype=torch.float64) for s in
                  [(1, heads, tokens, width), (1, heads, keys, width), (1, heads, keys, width),
                   (tokens, length)])  # fmt: skip
    actual = prompted_attention(q, k, v, p, kernel=kernel)
    torch.testing.assert_close(actual, reference(q, k, v, p, "concat", None, width**-0.5))


@pytest.mark.parametrize("kernel", ["fused", "extra_key"])
def test_gradcheck(kernel: str) -> None:
    q, k, v, p = inputs()
    assert torch.autograd.gradcheck(lambda *x: prompted_attention(*x, kernel=kernel), (q, k, v, p))
    sink = torch.randn(B, H, T, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: sink_attention(*x, kernel=kernel), (q, k, v, sink))


@pytest.mark.parametrize("kernel", ["fused", "extra_key"])
def test_bfloat16_loses_no_more_than_bfloat16_attention_does(kernel: str) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 197, 64, generator=random) for _ in range(3))
    p = torch.randn(197, 50, generator=random)
    half = [x.bfloat16() for x in (q, k, v)]
    exact = [x.double() for x in half]
    plain_error = (F.scaled_dot_product_attention(*half).double()
                   - F.scaled_dot_product_attention(*exact)).abs().max()  # fmt: skip
    expected = reference(*exact, p.double(), "concat", None, 1 / 8)
    error = (prompted_attention(*half, p, kernel=kernel).double() - expected).abs().max()
    assert error <= 2 * plain_error


@pytest.mark.parametrize("kernel", KERNELS)
def test_layout_of_a_fused_projection(kernel: str) -> None:
    """q, k and v as timm makes them: strided views of one tensor."""
    qkv = torch.randn(B, T, 3, H, D, dtype=torch.float64).permute(2, 0, 3, 1, 4)
    p = torch.randn(T, L, dtype=torch.float64)
    actual = prompted_attention(*qkv.unbind(0), p, kernel=kernel)
    torch.testing.assert_close(actual, reference(*qkv, p, "concat", None, D**-0.5))


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_a_sink_it_is_attention(kernel: str) -> None:
    q, k, v, _ = (x.detach() for x in inputs())
    none = torch.full((T,), -1e4, dtype=torch.float64)
    torch.testing.assert_close(
        sink_attention(q, k, v, none, kernel=kernel), F.scaled_dot_product_attention(q, k, v)
    )


@pytest.mark.parametrize("kernel", ["formula", "fused", "extra_key"])
def test_a_row_without_keys_gives_zeros(kernel: str) -> None:
    q, k, v, p = inputs()
    mask = torch.ones(T, T, dtype=torch.bool)
    mask[2] = False
    out = prompted_attention(q, k, v, p, attn_mask=mask, kernel=kernel)
    assert out[:, :, 2].abs().max() == 0
    gradients = torch.autograd.grad(out.sum(), (q, k, v, p))
    assert all(g.isfinite().all() for g in gradients)
    assert gates(q, k, p.logsumexp(-1), attn_mask=mask)[:, :, 2].max() == 0


def test_a_prompt_collapses_to_its_logsumexp() -> None:
    q, k, v, p = (x.detach() for x in inputs())
    out = prompted_attention(q, k, v, p)
    torch.testing.assert_close(sink_attention(q, k, v, p.logsumexp(-1)), out)
    torch.testing.assert_close(prompted_attention(q, k, v, p[:, torch.randperm(L)]), out)
    same = prompted_attention(q, k, v, torch.full((T, L), 0.3, dtype=torch.float64))
    constant = torch.full((T,), 0.3, dtype=torch.float64) + torch.tensor(float(L)).log()
    torch.testing.assert_close(sink_attention(q, k, v, constant), same)


def test_gates_are_between_zero_and_one_and_scale_the_output() -> None:
    q, k, v, p = (x.detach() for x in inputs())
    sink = p.logsumexp(-1)
    g = gates(q, k, sink)
    assert 0 < g.min() < g.max() < 1
    expected = F.scaled_dot_product_attention(q, k, v) * g[..., None]
    torch.testing.assert_close(sink_attention(q, k, v, sink), expected)


def test_dropout_acts_on_the_prompted_softmax() -> None:
    q, k, v, p = (x.detach() for x in inputs(keys=9))
    sink = p.logsumexp(-1)
    plain = sink_attention(q, k, v, sink)
    torch.manual_seed(0)
    runs = torch.stack([sink_attention(q, k, v, sink, dropout_p=0.3) for _ in range(3000)])
    torch.testing.assert_close(runs.mean(0), plain, rtol=0, atol=0.1)
    assert runs.std(0).min() > 0.01
    with pytest.raises(ValueError, match="no dropout"):
        sink_attention(q, k, v, sink, dropout_p=0.3, kernel="fused")


def test_only_the_prompt_trains() -> None:
    """With frozen q, k, v (the first layer) the prompt's gradient is the same."""
    q, k, v, p = inputs()
    all_four = torch.autograd.grad(prompted_attention(q, k, v, p).square().sum(), (q, k, v, p))
    frozen = [x.detach() for x in (q, k, v)]
    alone = torch.autograd.grad(prompted_attention(*frozen, p).square().sum(), (p,))
    torch.testing.assert_close(alone[0], all_four[3])


def test_the_choice_of_kernel() -> None:
    q = torch.zeros(1, 1, 2, 8)
    assert choose_kernel(q) == "fused"
    assert choose_kernel(q, dropout_p=0.1) == "extra_key"
    learnt = torch.zeros(2, 2, requires_grad=True)
    assert choose_kernel(q, attn_mask=learnt) == "extra_key"
    assert choose_kernel(q.to("meta")) == "extra_key"


def test_a_learnt_mask_gets_its_gradient() -> None:
    ours = inputs()
    mask = torch.randn(T, T, dtype=torch.float64, requires_grad=True)
    actual = prompted_attention(*ours, attn_mask=mask)
    expected = reference(*ours, "concat", mask, D**-0.5)
    got, want = (torch.autograd.grad(x.square().sum(), (mask,))[0] for x in (actual, expected))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
def test_compiles_in_one_graph(way: str) -> None:
    ours = inputs(torch.float32)
    compiled = torch.compile(
        lambda *x: prompted_attention(*x, way=way), fullgraph=True, backend="aot_eager"
    )
    theirs = [x.detach().double().requires_grad_() for x in ours]
    compare(compiled(*ours), reference(*theirs, way, None, D**-0.5), ours, theirs, 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_fused_kernels_of_cuda(mask: str, dtype: torch.dtype, atol: float) -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 40, 16)] * 3 + [(40, 10)]
    ours = [torch.randn(s, generator=random).to("cuda", dtype).requires_grad_() for s in shapes]
    theirs = [x.detach().double().requires_grad_() for x in ours]
    attn_mask: Any = None
    if mask != "none":
        attn_mask = torch.rand(40, 40, generator=random).cuda() < 0.6
        attn_mask[:, 0] = True
        if mask == "float":
            attn_mask = torch.randn(40, 40, generator=random).to("cuda", dtype)
    actual = prompted_attention(*ours, attn_mask=attn_mask, kernel="fused")
    wide = attn_mask.double() if mask == "float" else attn_mask
    expected = reference(*theirs, "concat", wide, 0.25)
    got = torch.autograd.grad(actual.sum(), ours)
    want = torch.autograd.grad(expected.sum(), theirs)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0.05, atol=atol)
