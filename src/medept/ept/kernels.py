"""Three kernels for attention with a sink. They give the same numbers.

With logits u, their logsumexp z_i, sinks s_i and t_i = logaddexp(z_i, s_i), each computes

    out_i = sum_j exp(u_ij - t_i) v_j = sigmoid(z_i - s_i) * attention_i.

:func:`formula`
    The softmax over logits and sink, written out: the reference. Any device, any dtype, T x S
    numbers in memory.

:func:`extra_key`
    Plain ``scaled_dot_product_attention`` with one more key, whose logit is s and whose value is
    zero. Any device; dropout; export to plain operators.

:func:`fused`
    The device's own flash kernel (CPU, CUDA) or memory-efficient kernel (CUDA), which returns z
    beside its output; the gate is one multiplication after it. Its backward needs no new kernel. A
    flash backward recomputes the weights as exp(u_ij - logsumexp_i), and reads nothing else but
    the output and its gradient dO. Given t_i for the logsumexp and the gated output, the weights
    that it recomputes are those of the prompted softmax, and so the gradients of q, k and v are
    exact. That of the sink is -(dO_i . out_i) exp(s_i - t_i): the last factor is the sink's share
    of the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medept.ept.operands import Operands, first, logits


def formula(operands: Operands, sink: Tensor, dropout_p: float = 0.0) -> Tensor:
    """The softmax over logits and sink, written out: (B, H, T, e)."""
    q, k, v, bias, scale = operands
    u = logits(q.to(sink.dtype), k.to(sink.dtype), bias, scale)
    column = sink.expand(u.shape[:-1])[..., None]
    weights = torch._safe_softmax(torch.cat([u, column], dim=-1), -1)[..., :-1]
    return F.dropout(weights, dropout_p).to(v.dtype) @ v


_REACH = 256
"""The extra key holds this and the query s over it, so that a sink too large for float16 still fits
into the query. A power of two, so that nothing is rounded."""


def extra_key(operands: Operands, sink: Tensor, dropout_p: float = 0.0) -> Tensor:
    """Plain attention with one more key, whose logit is the sink and whose value is zero."""
    q, k, v, bias, scale = operands
    width = v.shape[-1]
    limit = min(torch.finfo(q.dtype).max, torch.finfo(sink.dtype).max / _REACH)
    column = (sink / (scale * _REACH)).clamp(-limit, limit).to(q.dtype)
    q = torch.cat([q, column.expand(q.shape[:-1])[..., None]], dim=-1)
    key = _REACH * F.one_hot(torch.tensor(k.shape[-1], device=k.device), q.shape[-1]).to(k.dtype)
    k = torch.cat([F.pad(k, (0, 1)), key.expand(*k.shape[:-2], 1, -1)], dim=-2)
    q, k, v = _of_one_width(q, k, F.pad(v, (0, 0, 0, 1)))
    if bias is not None:
        bias = F.pad(bias.expand(*bias.shape[:-1], k.shape[-2] - 1), (0, 1))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    return out[..., :width]


def fused(operands: Operands, sink: Tensor) -> Tensor:
    """The device's fused attention, gated."""
    q, k, v, bias, scale = operands
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (q, k, v, sink)):
        out, z = fused_with_logsumexp(operands)
        return _gate_(out, z, sink)
    padded = _of_one_width(q, k, v)
    return first(v.shape[-1], FusedSinkAttention.apply(*padded, sink, bias, scale))


def fused_with_logsumexp(operands: Operands) -> tuple[Tensor, Tensor]:
    """The device's fused attention without a sink, (B, H, T, e), and z, (B, H, T); no gradient."""
    width, tokens = operands.v.shape[-1], operands.q.shape[-2]
    q, k, v = _of_one_width(operands.q, operands.k, operands.v)
    out, z, *_ = _attend(q, k, v, operands.bias, operands.scale)
    return first(width, out), first(tokens, z)


def _gate_(out: Tensor, z: Tensor, sink: Tensor) -> Tensor:
    """Multiply an output by its gates, in place."""
    return out.mul_(torch.sigmoid(z - sink)[..., None].to(out.dtype))


class FusedSinkAttention(torch.autograd.Function):
    """:func:`fused` with its backward, as the top of this module derives it."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        out, z, *random = _attend(q, k, v, bias, scale)
        rows = z[..., : out.shape[-2]]
        _gate_(out, rows, sink)
        rows.copy_(torch.logaddexp(rows, sink))  # from now on z holds t
        ctx.scale = scale
        frozen = not any(ctx.needs_input_grad[:3])
        ctx.save_for_backward(
            *((None, None, None) if frozen else (q, k, v)), sink, bias, out, z, *random
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink, bias, out, total, *random = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            return _differentiable_backward(ctx, grad)
        dq = dk = dv = ds = None
        if ctx.needs_input_grad[3]:
            t = total[..., : out.shape[-2]]
            per_row = -(grad.to(t.dtype) * out.to(t.dtype)).sum(-1) * torch.exp(sink - t)
            ds = per_row.sum_to_size(sink.shape)
        if any(ctx.needs_input_grad[:3]):
            dq, dk, dv = _attend_backward(grad, q, k, v, bias, out, total, random, ctx.scale)
        return dq, dk, dv, ds, None, None


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of :class:`FusedSinkAttention` in operators that can be differentiated again.

    Those of q, k and v by :func:`formula`; of the sink alone with z and the attention as constants.
    """
    q, k, v, sink, bias, out, total, *_ = ctx.saved_tensors
    needed = ctx.needs_input_grad[:4]
    if not any(needed[:3]):
        t = total[..., : out.shape[-2]]
        share = torch.exp(sink.detach() - t)
        attended = out.detach().to(t.dtype) / (1 - share)[..., None].clamp_min(1e-30)
        again = torch.sigmoid(sink - (t + torch.log1p(-share)).detach())
        per_row = -(grad.to(t.dtype) * attended).sum(-1) * (1 - again) * again
        return None, None, None, per_row.sum_to_size(sink.shape), None, None
    q, k, v, sink = inputs = [x.view_as(x) for x in (q, k, v, sink)]  # one may depend on another
    output = formula(Operands(q, k, v, bias, ctx.scale), sink)
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return *(next(found) if need else None for need in needed), None, None


# --- the kernels of CPU and CUDA ---------------------------------------------------------------


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, ...]:
    """Output (B, H, T, d), z (B, H, T, or padded beyond T), and CUDA's two random states."""
    if q.is_cpu:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(q, k, v, attn_mask=_of_rank_2_or_4(bias), scale=scale)
    if _takes_flash(q, bias):
        out, z, *_, seed, offset, _ = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, scale=scale
        )
        return out, z, seed, offset
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, _whole(bias, q, k), True, scale=scale)


_HAS_AMX = torch.cpu._is_amx_tile_supported()
"""Without AMX the CPU's backward takes half as long again in bfloat16 as in float32."""


def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    total: Tensor,
    random: list[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v by the backward of the kernel that :func:`_attend` took."""
    if q.is_cpu:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        dtype = q.dtype if _HAS_AMX else total.dtype
        given = (x.to(dtype) for x in (grad, q, k, v, out))
        mask = None if bias is None else _of_rank_2_or_4(bias.to(dtype))
        found = backward(*given, total, 0.0, False, attn_mask=mask, scale=scale)
        return tuple(x.to(q.dtype) for x in found)
    if _takes_flash(q, bias):  # None: the offsets of sequences that differ in length
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, total, None, None, q.shape[-2], k.shape[-2],
            0.0, False, *random, scale=scale,
        )  # fmt: skip
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, _whole(bias, q, k), out, total, *random, 0.0, [True, True, True, False],
        scale=scale,
    )[:3]  # fmt: skip


def _takes_flash(q: Tensor, bias: Tensor | None) -> bool:
    """Whether CUDA's flash kernel takes these; its memory-efficient kernel takes everything."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    fits = bias is None and half and q.shape[-1] <= 256
    return fits and torch.cuda.get_device_properties(q.device).major >= 8


def _of_one_width(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Padded with zeros to one head dimension: on CUDA a multiple of eight, as its kernels want."""
    widths = {x.shape[-1] for x in tensors}
    if len(widths) == 1 and not tensors[0].is_cuda:
        return tensors
    width = max(widths)
    width += -width % 8 if tensors[0].is_cuda else 0
    return tuple(F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in tensors)


def _of_rank_2_or_4(bias: Tensor | None) -> Tensor | None:
    """The CPU kernel takes masks of no other rank."""
    return bias[None] if bias is not None and bias.ndim == 3 else bias


def _whole(bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """A mask of full size whose rows start at multiples of eight, as the efficient kernel wants."""
    if bias is None:
        return None
    rows = bias.expand(*bias.shape[:-1], k.shape[-2])
    padded = F.pad(rows, (0, -k.shape[-2] % 8))[..., : k.shape[-2]]
    return padded.expand(*q.shape[:-1], k.shape[-2])
