"""Every kernel and way against equation 5 written out in float64, gradients included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medept.ept import kernels
from medept.ept.attention import choose_kernel, gates, prompted_attention, sink_attention

KERNELS = ("formula", "fused", "extra_key")
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
    actual = prompted_attention(*ours, kernel=kernel, is_causal=True, enable_gqa=True)
    compare(actual, reference(*repeated, "concat", causal, D**-0.5), ours, theirs, 1e-10)


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


@pytest.mark.parametrize("way", ["add", "multiply"])
@pytest.mark.parametrize("length", [1, T - 1])
def test_ways_that_change_the_logits_need_one_entry_a_key(way: str, length: int) -> None:
    with pytest.raises(ValueError, match=f"as long as there are keys, {T}, not {length}"):
        prompted_attention(*inputs(length=length), way=way)


@pytest.mark.parametrize("way", ["concat", "add"])
def test_unknown_names_are_refused(way: str) -> None:
    with pytest.raises(ValueError, match="kernel 'fast' is not one of"):
        prompted_attention(*inputs(length=T), way=way, kernel="fast")
    with pytest.raises(ValueError, match="way 'append' is not one of"):
        prompted_attention(*inputs(), way="append")


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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(), (T,), (H, 1), (H, T), (B, 1, T), (B, H, T)], ids=str)
def test_sinks_that_broadcast(kernel: str, shape: tuple[int, ...]) -> None:
    q, k, v, _ = inputs()
    sink = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    prompt = sink.expand(B, H, T)[..., None]
    expected = reference(q, k, v, prompt, "concat", None, D**-0.5)
    actual = sink_attention(q, k, v, sink, kernel=kernel)
    compare(actual, expected, [q, k, v, sink], [q, k, v, sink], 1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_wider_or_narrower_than_keys(kernel: str) -> None:
    q, k, v, p = (x.detach() for x in inputs())
    for values in (v[..., :3], torch.cat([v, v], -1)):
        actual = prompted_attention(q, k, values, p, kernel=kernel)
        assert actual.shape == (B, H, T, values.shape[-1])
        torch.testing.assert_close(actual, reference(q, k, values, p, "concat", None, D**-0.5))


def test_causal_excludes_a_mask() -> None:
    q, k, v, p = inputs()
    with pytest.raises(ValueError, match="put both into attn_mask"):
        prompted_attention(q, k, v, p, is_causal=True, attn_mask=torch.ones(T, T).bool())


@pytest.mark.parametrize("kernel", ["auto", "formula", "fused", "extra_key"])
def test_autocast_takes_what_plain_attention_takes(kernel: str) -> None:
    """Query and key norms leave float32 beside bfloat16 values."""
    q, k, v, p = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = prompted_attention(q, k, v.bfloat16(), p, kernel=kernel)
        assert gates(q, k, p.logsumexp(-1)).dtype == torch.float32
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.sum(), (q, k, v, p))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    expected = reference(*(x.double() for x in (q, k, v, p)), "concat", None, D**-0.5)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0.03)


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
    q, k, v = (x[:1, :2, :3].detach().requires_grad_() for x in inputs()[:3])
    p = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    sink = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    for way in ("concat", "multiply_concat"):
        assert torch.autograd.gradcheck(
            lambda *x, way=way: prompted_attention(*x, way=way, kernel=kernel), (q, k, v, p)
        )
    assert torch.autograd.gradcheck(lambda *x: sink_attention(*x, kernel=kernel), (q, k, v, sink))


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_loses_no_more_than_bfloat16_attention_does(kernel: str) -> None:
    """Outputs and gradients: beside plain attention's own loss."""
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 197, 64)] * 3 + [(197, 50)]
    half = [torch.randn(s, generator=random).bfloat16().requires_grad_() for s in shapes]
    exact = [x.detach().double().requires_grad_() for x in half]
    grad = torch.randn(shapes[0], generator=random).bfloat16()

    def losses(run: Any, truth: Any, inputs: slice) -> list[float]:
        got, want = run(*half[inputs]), truth(*exact[inputs])
        got = [got, *torch.autograd.grad(got, half[inputs], grad)]
        want = [want, *torch.autograd.grad(want, exact[inputs], grad.double())]
        return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, want, strict=True)]

    plain = losses(F.scaled_dot_product_attention, F.scaled_dot_product_attention, slice(3))
    ours = losses(
        lambda *x: prompted_attention(*x, kernel=kernel),
        lambda *x: reference(*x, "concat", None, 1 / 8),
        slice(4),
    )
    for one, other in zip(ours, [*plain, max(plain)], strict=True):
        assert one <= 2 * other


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
def test_logits_beyond_half_precision(kernel: str, way: str) -> None:
    """q . k of large activations overflows float16 before it is scaled."""
    random = torch.Generator().manual_seed(0)
    q, k, v = ((torch.randn(1, 2, 9, 64, generator=random) * 60).half() for _ in range(3))
    assert (q @ k.mT).isinf().any()
    p = torch.randn(9, 3, generator=random)
    expected = reference(*(x.double() for x in (q, k, v, p)), way, None, 1 / 8)
    actual = prompted_attention(q, k, v, p, way=way, kernel=kernel)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.2)


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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("low", [-1e5, float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_without_a_sink_it_is_attention(kernel: str, low: float, dtype: torch.dtype) -> None:
    q, k, v, _ = (x.detach() for x in inputs(dtype))
    none = torch.full((T,), low)
    atol = 1e-10 if dtype == torch.float64 else 2e-3
    actual = sink_attention(q, k, v, none, kernel=kernel)
    plain = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(actual, plain, rtol=0, atol=atol)


WITHOUT_KEYS = [("concat", kernel) for kernel in KERNELS] + [
    (way, "auto") for way in ("multiply_concat", "add", "multiply")
]


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize(("way", "kernel"), WITHOUT_KEYS)
def test_a_row_without_keys_gives_zeros(way: str, kernel: str, as_float: bool) -> None:
    """Zeros, no gradient, and every other row as if that one were not there."""
    mask = torch.ones(T, T, dtype=torch.bool)
    mask[2] = False
    others = [i for i in range(T) if i != 2]
    attn_mask = torch.zeros(T, T, dtype=torch.float64).masked_fill(~mask, float("-inf"))
    q, k, v, p = (x.detach() for x in inputs(length=T))
    ours = [x.requires_grad_() for x in (q, k, v, p)]
    out = prompted_attention(
        *ours, way=way, attn_mask=attn_mask if as_float else mask, kernel=kernel
    )
    assert out[:, :, 2].abs().max() == 0
    theirs = [x.detach() for x in (q[:, :, others], k, v, p[others])]
    expected = reference(*theirs, way, None, D**-0.5)
    torch.testing.assert_close(out[:, :, others], expected, rtol=0, atol=1e-10)
    dq, *rest = torch.autograd.grad(out.sum(), ours)
    assert dq[:, :, 2].abs().max() == 0
    assert all(g.isfinite().all() for g in rest)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sink", [float("-inf"), float("inf"), -1e30, 1e30])
def test_sinks_without_bounds(kernel: str, sink: float) -> None:
    """No NaN, forwards or backwards, beside a row without keys; an endless sink takes all."""
    mask = torch.ones(T, T, dtype=torch.bool)
    mask[2] = False
    ours = [*inputs()[:3], torch.full((T,), sink, dtype=torch.float64, requires_grad=True)]
    out = sink_attention(*ours, attn_mask=mask, kernel=kernel)
    assert out[:, :, 2].abs().max() == 0
    assert (out.abs().max() == 0) == (sink > 0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), ours))


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "add", "multiply"])
def test_the_lowest_number_masks_as_minus_infinity_does(way: str) -> None:
    ours = [x.detach() for x in inputs(torch.float32, length=T)]
    keep = torch.rand(T, T, generator=torch.Generator().manual_seed(1)) < 0.6
    keep[2] = False
    low = torch.zeros(T, T).masked_fill(~keep, torch.finfo(torch.float32).min)
    expected = prompted_attention(*ours, way=way, attn_mask=keep)
    torch.testing.assert_close(prompted_attention(*ours, way=way, attn_mask=low), expected)


@pytest.mark.parametrize("sink", [1.0, float("-inf")])
def test_a_row_without_keys_has_the_gate_zero(sink: float) -> None:
    q, k, _, _ = inputs()
    mask = torch.ones(T, T, dtype=torch.bool)
    mask[2] = False
    gate = gates(q, k, torch.tensor(sink), attn_mask=mask)
    assert gate[:, :, 2].max() == 0
    assert gate[:, :, 3].min() > 0


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


@pytest.mark.parametrize("kernel", ["formula", "extra_key"])
def test_dropout_acts_on_the_prompted_softmax(kernel: str) -> None:
    """Values that are the unit vectors show the weights: dropped, or as they were over 1 - p."""
    q, k, _, p = (x.detach() for x in inputs(keys=9))
    eye = torch.eye(9, dtype=torch.float64).expand(B, H, 9, 9)
    weights = reference(q, k, eye, p, "concat", None, D**-0.5)
    kept = 0
    for _ in range(20):
        out = prompted_attention(q, k, eye, p, dropout_p=0.3, kernel=kernel)
        torch.testing.assert_close(out, torch.where(out == 0, 0, weights / 0.7))
        kept += (out != 0).sum().item()
    draws = 20 * weights.numel()
    assert abs(kept - 0.7 * draws) < 5 * (draws * 0.21) ** 0.5


def test_the_kernel_without_dropout_says_so() -> None:
    q, k, v, p = inputs()
    with pytest.raises(ValueError, match="no dropout"):
        prompted_attention(q, k, v, p, dropout_p=0.3, kernel="fused")


def test_only_the_prompt_trains() -> None:
    """With frozen q, k, v (the first layer) the prompt's gradient is the same."""
    q, k, v, p = inputs()
    all_four = torch.autograd.grad(prompted_attention(q, k, v, p).square().sum(), (q, k, v, p))
    frozen = [x.detach() for x in (q, k, v)]
    alone = torch.autograd.grad(prompted_attention(*frozen, p).square().sum(), (p,))
    torch.testing.assert_close(alone[0], all_four[3])


def test_the_choice_of_kernel() -> None:
    q = torch.zeros(1, 1, 2, 8)
    assert choose_kernel(q, q) == "fused"
    assert choose_kernel(q, q, dropout_p=0.1) == "extra_key"
    learnt = torch.zeros(2, 2, requires_grad=True)
    assert choose_kernel(q, q, attn_mask=learnt) == "extra_key"
    assert choose_kernel(q.to("meta"), q.to("meta")) == "extra_key"


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "add", "multiply"])
def test_a_learnt_mask_gets_its_gradient(way: str) -> None:
    ours = inputs(length=T)
    mask = torch.randn(T, T, dtype=torch.float64, requires_grad=True)
    actual = prompted_attention(*ours, way=way, attn_mask=mask)
    expected = reference(*ours, way, mask, D**-0.5)
    got, want = (torch.autograd.grad(x.square().sum(), (mask,))[0] for x in (actual, expected))
    torch.testing.assert_close(got, want)


def test_a_mask_that_the_kernel_could_not_train_is_refused() -> None:
    mask = torch.zeros(T, T, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="'fused' gives a mask no gradient"):
        prompted_attention(*inputs(), attn_mask=mask, kernel="fused")
    with torch.no_grad():
        prompted_attention(*inputs(), attn_mask=mask, kernel="fused")


def test_second_derivatives_are_refused() -> None:
    q, k, v, p = inputs()
    out = prompted_attention(q, k, v, p, kernel="fused")
    (dp,) = torch.autograd.grad(out.square().sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dp.sum().backward()


def test_extremes_over_more_keys_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medept.ept.attention.KEYS_AT_ONCE", 4)
    ours = inputs(keys=9)
    theirs = [x.detach().requires_grad_() for x in ours]
    mask = mask_of("bool", 9)
    actual = prompted_attention(*ours, way="multiply_concat", attn_mask=mask)
    compare(actual, reference(*theirs, "multiply_concat", mask, D**-0.5), ours, theirs, 1e-10)


@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
def test_compiles_in_one_graph(way: str) -> None:
    ours = inputs(torch.float32)
    compiled = torch.compile(
        lambda *x: prompted_attention(*x, way=way), fullgraph=True, backend="aot_eager"
    )
    theirs = [x.detach().double().requires_grad_() for x in ours]
    compare(compiled(*ours), reference(*theirs, way, None, D**-0.5), ours, theirs, 1e-5)


class Layer(torch.nn.Module):
    """One attention with a prompt (or a sink) as its only parameter."""

    def __init__(self, way: str) -> None:
        super().__init__()
        shape = (T,) if way == "sink" else (T, T)
        self.way, self.prompt = way, torch.nn.Parameter(torch.randn(shape))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "sink":
            return sink_attention(q, k, v, self.prompt)
        return prompted_attention(q, k, v, self.prompt, way=self.way)


@pytest.mark.parametrize("way", ["sink", "concat", "multiply_concat", "add", "multiply"])
def test_exports_in_plain_operators(way: str) -> None:
    """What is exported runs on any device: no operator of one device's kernel."""
    layer, arguments = Layer(way).eval(), tuple(x.detach() for x in inputs(torch.float32)[:3])
    program = torch.export.export(layer, arguments)
    assert "flash" not in program.graph_module.code
    torch.testing.assert_close(program.module()(*arguments), layer(*arguments))


@pytest.mark.slow
def test_onnx_runtime_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer, arguments = Layer("sink").eval(), tuple(x.detach() for x in inputs(torch.float32)[:3])
    file = tmp_path / "layer.onnx"
    torch.onnx.export(layer, arguments, file, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    (out,) = session.run(None, {n: x.numpy() for n, x in zip(names, arguments, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), layer(*arguments).detach())


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    ours = inputs(torch.float32)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    compiled = torch.compile(prompted_attention, fullgraph=True)
    compare(compiled(*ours), reference(*theirs, "concat", None, D**-0.5), ours, theirs, 1e-5)


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


@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
def test_never_holds_the_logits(way: str) -> None:
    tokens, width = 1024, 8
    q, k, v = (torch.randn(1, 1, tokens, width, requires_grad=True) for _ in range(3))
    p = torch.randn(tokens, 4, requires_grad=True)
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


class Calls(TorchDispatchMode):
    """Attention operators that ran under it, each with its arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, dict[str, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in func.name():
            given = {a.name: a.default_value for a in func._schema.arguments}
            given |= dict(zip(given, args, strict=False)) | (kwargs or {})
            self.made[func.name()] = {
                name: (x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x
                for name, x in given.items()
            }
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernels_are_called_as_autograd_calls_them(
    dtype: torch.dtype, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fake tensors, without a GPU: the forms of all arguments, forwards and backwards."""
    if not torch.cuda.is_available():
        ampere = SimpleNamespace(major=8)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: ampere)
    with FakeTensorMode():
        q, k, v, grad = torch.empty(4, 2, 3, 37, 64, device="cuda", dtype=dtype).unbind(0)
        qkv = [x.requires_grad_() for x in (q, k, v)]
        sink = torch.empty(3, 37, device="cuda", requires_grad=True)
        bias = torch.empty(2, 3, 37, 40, device="cuda", dtype=dtype)[..., :37] if masked else None
        with Calls() as ours:
            out = kernels.FusedSinkAttention.apply(*qkv, sink, bias, 0.1)
            gradients = out.grad_fn.apply(grad)
        with Calls() as autograd:
            if dtype == torch.bfloat16 and not masked:
                flash = torch.ops.aten._scaled_dot_product_flash_attention
                out = flash(*qkv, scale=0.1)[0]
            else:
                efficient = torch.ops.aten._scaled_dot_product_efficient_attention
                out = efficient(*qkv, bias, True, scale=0.1)[0]
            out.grad_fn(grad)
    assert len(ours.made) == 2
    assert ours.made == autograd.made
    assert [g.shape for g in gradients[:4]] == [q.shape, k.shape, v.shape, sink.shape]


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
