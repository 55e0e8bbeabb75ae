"""Every kernel against equation 5 written out in float64, with gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from equation_5 import (
    KERNELS,
    B,
    D,
    H,
    T,
    compare,
    inputs,
    mask_of,
    reference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from medept.ept import kernels
from medept.ept.attention import prompted_attention, sink_attention


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["concat", "multiply_concat", "keys"])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_kernels_equal_equation_5(
    kernel: str, way: str, mask: str, dtype: torch.dtype, atol: float
) -> None:
    ours = inputs(dtype, keys=9, way=way)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    attn_mask = mask_of(mask, 9)
    given_mask = (
        attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(dtype)
    )
    actual = prompted_attention(*ours, way=way, kernel=kernel, attn_mask=given_mask, scale=0.7)
    compare(actual, reference(*theirs, way, attn_mask, 0.7), ours, theirs, atol)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(), (T,), (H, 1), (H, T), (B, 1, T), (B, H, T)], ids=str)
def test_sinks_that_broadcast(kernel: str, shape: tuple[int, ...]) -> None:
    q, k, v, _ = inputs()
    sink = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    prompt = sink.expand(B, H, T)[..., None]
    expected = reference(q, k, v, prompt, "concat", None, D**-0.5)
    actual = sink_attention(q, k, v, sink, kernel=kernel)
    compare(actual, expected, [q, k, v, sink], [q, k, v, sink], 1e-10)


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
    keys = torch.randn(2, 2, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: prompted_attention(*x, way="keys", kernel=kernel), (q, k, v, keys)
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("learnt", ["qkvs", "s", "vs", "q"])
def test_second_derivatives(learnt: str, masked: bool) -> None:
    """Finite differences of the gradient; and a third derivative of the sink alone."""
    given = dict(zip("qkv", (x[:1, :2, :3].detach() for x in inputs()[:3]), strict=True))
    given["s"] = torch.randn(1, 2, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]]).bool() if masked else None

    def attend(*changed: Tensor) -> Tensor:
        q, k, v, sink = (given | dict(zip(learnt, changed, strict=True))).values()
        return sink_attention(q, k, v, sink, attn_mask=mask, kernel="fused")

    wanted = [given[name].clone().requires_grad_() for name in learnt]
    assert torch.autograd.gradgradcheck(attend, wanted)
    if learnt == "s":
        first = torch.autograd.grad(attend(*wanted).square().sum(), wanted, create_graph=True)[0]
        assert torch.autograd.gradgradcheck(
            lambda s: torch.autograd.grad(attend(s).square().sum(), s, create_graph=True)[0],
            wanted,
        )
        assert first.requires_grad


@pytest.mark.parametrize("way", ["concat", "multiply_concat"])
def test_a_gradient_penalty_is_that_of_the_formula(way: str) -> None:
    """``autograd.grad`` twice, as for Hessian-vector products."""
    found = []
    ours = inputs()
    theirs = [x.detach().requires_grad_() for x in ours]
    for tensors, run in (
        (ours, lambda *x: prompted_attention(*x, way=way)),
        (theirs, lambda *x: reference(*x, way, None, D**-0.5)),
    ):
        first = torch.autograd.grad(run(*tensors).square().sum(), tensors, create_graph=True)
        penalty = sum(x.square().sum() for x in first)
        found.append(torch.autograd.grad(penalty, tensors))
    for ours_, theirs_ in zip(*found, strict=True):
        torch.testing.assert_close(ours_, theirs_)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("way", "prompt"), [("concat", (197, 50)), ("keys", (4, 5, 64))])
def test_bfloat16_loses_no_more_than_bfloat16_attention_does(
    kernel: str, way: str, prompt: tuple[int, ...]
) -> None:
    """Outputs and gradients: beside plain attention's own loss."""
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 197, 64)] * 3 + [prompt]
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
        lambda *x: prompted_attention(*x, way=way, kernel=kernel),
        lambda *x: reference(*x, way, None, 1 / 8),
        slice(4),
    )
    for one, other in zip(ours, [*plain, max(plain)], strict=True):
        assert one <= 2 * other


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["concat", "multiply_concat", "keys"])
def test_logits_beyond_half_precision(kernel: str, way: str) -> None:
    """q . k of large activations overflows float16 before it is scaled."""
    random = torch.Generator().manual_seed(0)
    q, k, v = ((torch.randn(1, 2, 9, 64, generator=random) * 60).half() for _ in range(3))
    assert (q @ k.mT).isinf().any()
    p = torch.randn((2, 3, 64) if way == "keys" else (9, 3), generator=random)
    expected = reference(*(x.double() for x in (q, k, v, p)), way, None, 1 / 8)
    actual = prompted_attention(q, k, v, p, way=way, kernel=kernel)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.2)


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


def test_a_mask_that_the_kernel_could_not_train_is_refused() -> None:
    mask = torch.zeros(T, T, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="'fused' gives a mask no gradient"):
        prompted_attention(*inputs(), attn_mask=mask, kernel="fused")
    with torch.no_grad():
        prompted_attention(*inputs(), attn_mask=mask, kernel="fused")


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
            with torch.no_grad():
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
