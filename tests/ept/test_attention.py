"""The ways a prompt enters the logits, sinks, gates, and the choice of kernel."""

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
    mask_of,
    reference,
)

from medept.ept.attention import (
    WAYS,
    choose_kernel,
    gates,
    prompted_attention,
    sink_attention,
    sink_of_keys,
)


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


@pytest.mark.parametrize("way", WAYS)
def test_a_learnt_mask_gets_its_gradient(way: str) -> None:
    ours = inputs(length=T, way=way)
    mask = torch.randn(T, T, dtype=torch.float64, requires_grad=True)
    actual = prompted_attention(*ours, way=way, attn_mask=mask)
    expected = reference(*ours, way, mask, D**-0.5)
    got, want = (torch.autograd.grad(x.square().sum(), (mask,))[0] for x in (actual, expected))
    torch.testing.assert_close(got, want)


def test_extremes_over_more_keys_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medept.ept.attention.KEYS_AT_ONCE", 4)
    ours = inputs(keys=9)
    theirs = [x.detach().requires_grad_() for x in ours]
    mask = mask_of("bool", 9)
    actual = prompted_attention(*ours, way="multiply_concat", attn_mask=mask)
    compare(actual, reference(*theirs, "multiply_concat", mask, D**-0.5), ours, theirs, 1e-10)


WITHOUT_KEYS = [(way, kernel) for way in ("concat", "keys") for kernel in KERNELS] + [
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
    q, k, v, p = (x.detach() for x in inputs(length=T, way=way))
    ours = [x.requires_grad_() for x in (q, k, v, p)]
    out = prompted_attention(
        *ours, way=way, attn_mask=attn_mask if as_float else mask, kernel=kernel
    )
    assert out[:, :, 2].abs().max() == 0
    theirs = [x.detach() for x in (q[:, :, others], k, v, p if way == "keys" else p[others])]
    expected = reference(*theirs, way, None, D**-0.5)
    torch.testing.assert_close(out[:, :, others], expected, rtol=0, atol=1e-10)
    dq, *rest = torch.autograd.grad(out.sum(), ours)
    assert dq[:, :, 2].abs().max() == 0
    assert all(g.isfinite().all() for g in rest)


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


@pytest.mark.parametrize("kernel", KERNELS)
def test_keys_are_more_keys_whose_values_are_zero(kernel: str) -> None:
    """By PyTorch's own attention."""
    q, k, v, keys = (x.detach() for x in inputs(way="keys"))
    more = [torch.cat([x, y.expand(B, -1, -1, -1)], 2) for x, y in ((k, keys), (v, 0 * keys))]
    expected = F.scaled_dot_product_attention(q, *more)
    torch.testing.assert_close(
        prompted_attention(q, k, v, keys, way="keys", kernel=kernel), expected
    )


def test_keys_of_zero_are_prompts_of_zero() -> None:
    """One gate for all tokens whose keys have one logsumexp: as far as it goes, the length."""
    q, k, v, _ = (x.detach() for x in inputs())
    expected = prompted_attention(q, k, v, torch.zeros(T, L))
    torch.testing.assert_close(
        prompted_attention(q, k, v, torch.zeros(H, L, D), way="keys"), expected
    )
    sink = sink_of_keys(q.bfloat16(), torch.zeros(H, L, D).bfloat16())
    torch.testing.assert_close(sink, torch.full((B, H, T), float(L)).log())


def test_gates_are_between_zero_and_one_and_scale_the_output() -> None:
    q, k, v, p = (x.detach() for x in inputs())
    sink = p.logsumexp(-1)
    g = gates(q, k, sink)
    assert 0 < g.min() < g.max() < 1
    expected = F.scaled_dot_product_attention(q, k, v) * g[..., None]
    torch.testing.assert_close(sink_attention(q, k, v, sink), expected)


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
