"""Attention with a prompt inside its softmax: exact, and as cheap as attention without.

Embedded Prompt Tuning (Zu et al., Medical Image Analysis 97, 2024, equation 5) appends a row of
L learnable logits p_i to row i of the scaled logits u, takes the softmax over all of them, and
drops the L entries before the product with the values. With z_i = logsumexp_j u_ij and the *sink*
s_i = logsumexp_l p_il this is ordinary attention times one gate per head and token:

    out_i = sum_j softmax(u)_ij v_j * sigmoid(z_i - s_i).

So any kernel that returns its logsumexp computes it without a T x (T + L) matrix. Its backward is
that kernel's own, called with the gated output and logaddexp(z, s) in place of its output and
logsumexp, and ds_i = -(dO . O)_i exp(s_i - logaddexp(z_i, s_i)). The same numbers come from

- ``formula``: the softmax over logits and sink, written out; dense, any dtype: the reference;
- ``fused``: flash attention of the CPU, flash or memory-efficient attention of CUDA;
- ``extra_key``: one more key whose logit is s and whose value is zero, on plain
  ``scaled_dot_product_attention``: any device, dropout, export.

``auto`` takes ``fused`` where the device has such a kernel and nothing stands in its way, else
``extra_key``; :func:`choose_kernel` tells which. cuDNN's kernel is left out: on an H100 it is
slower than flash attention (docs/speed.md).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Way = Literal["concat", "multiply_concat", "add", "multiply"]
Kernel = Literal["auto", "formula", "fused", "extra_key"]
WAYS: tuple[Way, ...] = get_args(Way)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
KEYS_AT_ONCE = 256
"""How many columns of logits ``multiply_concat`` looks at together for a row's extremes."""


def prompted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt: Tensor,
    *,
    way: str = "concat",
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    kernel: str = "auto",
) -> Tensor:
    """Attention (B, H, T, d) with ``prompt`` embedded in its softmax.

    Args:
        q: queries (B, H, T, d).
        k: keys (B, H, S, d), or fewer heads with ``enable_gqa``.
        v: values (B, H, S, d), likewise.
        prompt: (T, L), shared by the heads, or (H, T, L), in units of the scaled logits u.
        way: ``concat`` (equation 5); ``multiply_concat``, the prompt's row i multiplied by
            max_j u_ij - min_j u_ij first; ``add``, u + P; ``multiply``, u * P (both L = S).
            ``multiply_concat`` leaves masked keys out of its extremes, finds them in blocks of
            :data:`KEYS_AT_ONCE` keys (no kernel gives them: this many columns of logits are held,
            which for short inputs are all), and is differentiable to q and k; ``add`` and
            ``multiply`` change the logits themselves and are dense. With ``multiply`` a float
            mask is added after the multiplication. A row whose keys are all masked gives zeros.
        attn_mask: as in ``torch.nn.functional.scaled_dot_product_attention``, as are the next
            four. A float mask masks with -inf or with its type's lowest value. Dropout acts on the
            softmax over logits and prompt together.
        dropout_p: see above.
        is_causal: see above.
        scale: see above.
        enable_gqa: see above.
        kernel: one of :data:`KERNELS`.

    Raises:
        ValueError: for an unknown way or kernel, shapes that do not fit together, ``attn_mask``
            together with ``is_causal``, and dropout or a mask that is learnt with a kernel that
            cannot have it.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")
    options: dict[str, Any] = {"dropout_p": dropout_p, "scale": _scale(q, scale)}
    q, k, v = _alike(q, k, v, enable_gqa)
    bias = _bias(q, k, attn_mask, is_causal)
    prompt = prompt.to(_precise(q))
    if way == "concat":
        sink = prompt.logsumexp(-1)
        return sink_attention(q, k, v, sink, attn_mask=bias, kernel=kernel, **options)
    if way == "multiply_concat":
        spread = _row_spread(q, k, bias, options["scale"])
        sink = (spread[..., None] * prompt).logsumexp(-1)
        return sink_attention(q, k, v, sink, attn_mask=bias, kernel=kernel, **options)
    if way in ("add", "multiply") and prompt.shape[-1] != k.shape[-2]:
        raise ValueError(
            f"way {way!r} needs a prompt as long as there are keys, {k.shape[-2]}, "
            f"not {prompt.shape[-1]}"
        )
    if way == "add":
        added = prompt.to(q.dtype) if bias is None else prompt.to(q.dtype) + bias
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added, **options)
    if way == "multiply":
        logits = _logits(q.to(prompt.dtype), k.to(prompt.dtype), None, options["scale"]) * prompt
        weights = torch._safe_softmax(logits if bias is None else logits + bias, -1)
        return F.dropout(weights, dropout_p).to(v.dtype) @ v
    raise ValueError(f"way {way!r} is not one of {WAYS}")


def sink_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    kernel: str = "auto",
) -> Tensor:
    """Attention (B, H, T, d) times sigmoid(z - s): the collapsed form of a prompt.

    A row whose keys are all masked gives zeros.

    Args:
        sink: s, broadcastable to (B, H, T); the rest is as in :func:`prompted_attention`.
    """
    scale = _scale(q, scale)
    q, k, v = _alike(q, k, v, enable_gqa)
    bias = _bias(q, k, attn_mask, is_causal)
    if kernel == "auto":
        kernel = choose_kernel(q, k, attn_mask=bias, dropout_p=dropout_p)
    sink = sink.to(_precise(q))
    if kernel != "fused" or bias is not None or torch.is_grad_enabled():  # else any sink will do
        sink = sink.clamp(torch.finfo(sink.dtype).min, torch.finfo(sink.dtype).max)
    if kernel == "formula":
        return _formula(q, k, v, sink, bias, dropout_p, scale)
    if kernel == "extra_key":
        return _extra_key(q, k, v, sink, bias, dropout_p, scale)
    if dropout_p:
        raise ValueError(f"the kernel {kernel!r} has no dropout: use 'extra_key'")
    if kernel == "fused":
        if _learnt(bias):
            raise ValueError("the kernel 'fused' gives a mask no gradient: use 'extra_key'")
        return _fused(q, k, v, sink, bias, scale)
    raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")


@torch.no_grad()
def attention_with_logsumexp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention without a prompt, (B, H, T, e), and the logsumexp z of its logits, (B, H, T).

    All that a prompt of the way ``concat`` needs to know of them. Not differentiable.
    """
    scale = _scale(q, scale)
    q, k, v = _alike(q, k, v, enable_gqa)
    bias = _bias(q, k, attn_mask, is_causal)
    width = v.shape[-1]
    if choose_kernel(q, k, attn_mask=bias) == "fused":
        q, k, v = _in_eights(q, k, v)
        out, z, *_ = _attend(q, k, v, bias, scale)
        return first(width, out), first(q.shape[-2], z)
    logits = _logits(q.to(_precise(q)), k.to(_precise(q)), bias, scale)
    return torch._safe_softmax(logits, -1).to(v.dtype) @ v, logits.logsumexp(-1)


@torch.no_grad()
def gates(
    q: Tensor,
    k: Tensor,
    sink: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """sigmoid(z - s), (B, H, T): by how much the prompt scales each head's and token's output.

    A row whose keys are all masked has the gate 0. Not differentiable.
    """
    _, z = attention_with_logsumexp(
        q, k, k, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    bias = _bias(q, k, attn_mask, is_causal)
    gate = torch.sigmoid(z - sink.to(_precise(q)))
    return gate if bias is None else gate.masked_fill((bias == float("-inf")).all(-1), 0)


@torch.no_grad()
def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(u) without prompts, mean over heads: (B, T, S). To look at, not to compute with."""
    q, k, _ = _alike(q, k, k, enable_gqa)
    bias = _bias(q, k, attn_mask, is_causal)
    precise = _precise(q)
    return _logits(q.to(precise), k.to(precise), bias, _scale(q, scale)).softmax(-1).mean(-3)


def choose_kernel(
    q: Tensor, k: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> str:
    """The kernel that ``auto`` takes for these inputs: ``fused`` or ``extra_key``."""
    empty = not (q.shape[-2] and k.shape[-2])
    if dropout_p or _learnt(attn_mask) or empty or torch.compiler.is_exporting():
        return "extra_key"
    fused = q.is_cpu or (q.is_cuda and q.dtype != torch.float64)
    return "fused" if fused else "extra_key"


# --- what goes in ----------------------------------------------------------------------------


def _scale(q: Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _precise(q: Tensor) -> torch.dtype:
    """The type of sinks and logsumexps: float32, or float64 where q is."""
    return torch.promote_types(q.dtype, torch.float32)


def _learnt(mask: Tensor | None) -> bool:
    return mask is not None and mask.requires_grad and torch.is_grad_enabled()


def _alike(q: Tensor, k: Tensor, v: Tensor, gqa: bool) -> tuple[Tensor, Tensor, Tensor]:
    """In autocast's type where it is on, keys and values once for each head of the queries.

    The fused kernels read memory that is not theirs where shapes do not fit: they are refused.
    """
    device, given = q.device.type, (q, k, v)
    if torch.is_autocast_enabled(device) and q.dtype != torch.float64:
        q, k, v = (x.to(torch.get_autocast_dtype(device)) for x in (q, k, v))
    if gqa and q.ndim == k.ndim == v.ndim == 4:
        heads = q.shape[1]
        k, v = (
            x.repeat_interleave(heads // x.shape[1], 1) if 0 < x.shape[1] < heads else x
            for x in (k, v)
        )
    fit = q.shape == k.shape == v.shape or (
        q.shape[:-2] == k.shape[:-2] and q.shape[-1] == k.shape[-1] and k.shape[:-1] == v.shape[:-1]
    )
    if q.ndim != 4 or not fit:
        queries, keys, values = (tuple(x.shape) for x in given)
        raise ValueError(
            f"queries {queries}, keys {keys} and values {values} do not fit: they must be "
            "(B, H, T, d), (B, H, S, d) and (B, H, S, e), or have fewer key heads with enable_gqa"
        )
    return _dense(q), _dense(k), _dense(v)


def _dense(x: Tensor) -> Tensor:
    """With the numbers of a row side by side, as the fused kernels suppose without looking."""
    return x if x.stride(-1) == 1 else x.contiguous()


def first(count: int, x: Tensor) -> Tensor:
    """The first ``count`` along the last dimension; ``x`` itself where that is all, at no cost."""
    return x if x.shape[-1] == count else x[..., :count]


def _in_eights(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Padded with zeros to one head dimension, which CUDA's kernels want in steps of eight."""
    widths = {x.shape[-1] for x in tensors}
    if len(widths) == 1 and not tensors[0].is_cuda:
        return tensors
    width = max(widths)
    width += -width % 8 if tensors[0].is_cuda else 0
    return tuple(F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in tensors)


def _bias(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """Masks of all kinds as what is added to the logits: 0, -inf, or what a float mask says."""
    if is_causal:
        if mask is not None:
            raise ValueError("attn_mask and is_causal exclude each other: put both into attn_mask")
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return None
    mask = mask if mask.ndim > 1 else mask[None]
    if mask.dtype != torch.bool:
        lowest = torch.finfo(mask.dtype).min
        return mask.masked_fill(mask == lowest, float("-inf")).to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))


def _logits(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    logits = (q * scale) @ k.transpose(-1, -2)
    return logits if bias is None else logits + bias


def _row_spread(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """max_j u_ij - min_j u_ij (B, H, T) over the keys that are not masked, with its gradient."""
    ends = [at[..., None] for at in _row_extremes(q, k, bias, scale)]
    top, bottom = (k.gather(-2, at.expand_as(q)).to(_precise(q)) for at in ends)
    spread = (q * (top - bottom)).sum(-1) * scale
    if bias is None:
        return spread
    added = bias.expand(*q.shape[:-1], k.shape[-2])
    top, bottom = (added.gather(-1, at)[..., 0] for at in ends)
    return spread + torch.where(top > float("-inf"), top - bottom, 0)  # 0: a row without keys


@torch.no_grad()
def _row_extremes(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The keys of each row's largest and smallest logit, found a block of keys at a time."""
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, k.shape[-2], KEYS_AT_ONCE):
        block = slice(start, start + KEYS_AT_ONCE)
        part = None if bias is None else bias.expand(*bias.shape[:-1], k.shape[-2])[..., block]
        logits = _logits(q, k[..., block, :], part, scale)
        top, at_top = logits.max(-1)
        bottom, at_bottom = logits.masked_fill(logits == float("-inf"), float("inf")).min(-1)
        found.append((top, bottom, at_top + start, at_bottom + start))
    tops, bottoms, at_tops, at_bottoms = (torch.stack(part) for part in zip(*found, strict=True))
    first, last = tops.argmax(0, keepdim=True), bottoms.argmin(0, keepdim=True)
    return at_tops.gather(0, first)[0], at_bottoms.gather(0, last)[0]


# --- kernels ---------------------------------------------------------------------------------


def _formula(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor | None, dropout: float, scale: float
) -> Tensor:
    logits = _logits(q.to(sink.dtype), k.to(sink.dtype), bias, scale)
    column = sink.expand(logits.shape[:-1])[..., None]
    weights = torch._safe_softmax(torch.cat([logits, column], dim=-1), -1)[..., :-1]
    return F.dropout(weights, dropout).to(v.dtype) @ v


_REACH = 256  # of the extra key: sinks beyond float16's largest number fit; exact, a power of two


def _extra_key(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor | None, dropout: float, scale: float
) -> Tensor:
    width = v.shape[-1]
    limit = min(torch.finfo(q.dtype).max, torch.finfo(sink.dtype).max / _REACH)
    column = (sink / (scale * _REACH)).clamp(-limit, limit).to(q.dtype)
    q = torch.cat([q, column.expand(q.shape[:-1])[..., None]], dim=-1)
    key = _REACH * F.one_hot(torch.tensor(k.shape[-1], device=k.device), q.shape[-1]).to(k.dtype)
    k = torch.cat([F.pad(k, (0, 1)), key.expand(*k.shape[:-2], 1, -1)], dim=-2)
    q, k, v = _in_eights(q, k, F.pad(v, (0, 0, 0, 1)))
    if bias is not None:
        bias = F.pad(bias.expand(*bias.shape[:-1], k.shape[-2] - 1), (0, 1))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    return out[..., :width]


def _fused(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    width = v.shape[-1]
    q, k, v = _in_eights(q, k, v)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, sink)):
        out = _SinkAttention.apply(q, k, v, sink, bias, scale)
    else:
        out, z, *_ = _attend(q, k, v, bias, scale)
        _gate_(out, z, sink)
    return first(width, out)


def _gate_(out: Tensor, z: Tensor, sink: Tensor) -> None:
    """Gates the kernel's output in place."""
    out.mul_(torch.sigmoid(first(out.shape[-2], z) - sink)[..., None].to(out.dtype))


class _SinkAttention(torch.autograd.Function):
    """The fused kernel with the ordinary attention backward, fed as the module docstring says."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        out, z, *random = _attend(q, k, v, bias, scale)
        _gate_(out, z, sink)
        rows = z[..., : out.shape[-2]]
        rows.copy_(torch.logaddexp(rows, sink))  # z from now on holds the sink too
        ctx.scale = scale
        given = (q, k, v) if any(ctx.needs_input_grad[:3]) else (None, None, None)
        ctx.save_for_backward(*given, sink, bias, out, z, *random)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sink, bias, out, total, *random = ctx.saved_tensors
        dq = dk = dv = ds = None
        if ctx.needs_input_grad[3]:
            kept = total[..., : out.shape[-2]]
            lost = -(grad.to(kept.dtype) * out.to(kept.dtype)).sum(-1) * torch.exp(sink - kept)
            ds = lost.sum_to_size(sink.shape)
        if any(ctx.needs_input_grad[:3]):
            dq, dk, dv = _attend_backward(grad, q, k, v, bias, out, total, random, ctx.scale)
        return dq, dk, dv, ds, None, None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, ...]:
    """Output (B, H, T, d), logsumexp (B, H, T, perhaps padded), and CUDA's two random states."""
    if q.is_cpu:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return flash(q, k, v, attn_mask=_rank4(bias), scale=scale)
    if _flashes(q, bias):
        out, z, *_, seed, offset, _ = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, scale=scale
        )
        return out, z, seed, offset
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, _whole(bias, q, k), True, scale=scale)


def _flashes(q: Tensor, bias: Tensor | None) -> bool:
    """Whether CUDA's flash attention takes these: the memory-efficient one takes all."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    fits = bias is None and half and q.shape[-1] <= 256
    return fits and torch.cuda.get_device_properties(q.device).major >= 8


_TILES = torch.cpu._is_amx_tile_supported()
"""Without matrix tiles (AMX) the CPU's backward is half as fast again in float32 as in bfloat16."""


def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    z: Tensor,
    random: list[Tensor],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if q.is_cpu:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        wide = q.dtype if _TILES else z.dtype
        given = (x.to(wide) for x in (grad, q, k, v, out))
        mask = None if bias is None else _rank4(bias.to(wide))
        found = backward(*given, z, 0.0, False, attn_mask=mask, scale=scale)
        return tuple(x.to(q.dtype) for x in found)
    if _flashes(q, bias):  # None: the offsets of sequences of unlike lengths
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, z, None, None, q.shape[-2], k.shape[-2],
            0.0, False, *random, scale=scale,
        )  # fmt: skip
    return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, _whole(bias, q, k), out, z, *random, 0.0, [True, True, True, False],
        scale=scale,
    )[:3]  # fmt: skip


def _rank4(bias: Tensor | None) -> Tensor | None:
    """The CPU kernel takes masks of rank two or four."""
    return bias[None] if bias is not None and bias.ndim == 3 else bias


def _whole(bias: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The memory-efficient kernel takes whole masks, in rows that start at multiples of eight."""
    if bias is None:
        return None
    rows = bias.expand(*bias.shape[:-1], k.shape[-2])
    padded = F.pad(rows, (0, -k.shape[-2] % 8))[..., : k.shape[-2]]
    return padded.expand(*q.shape[:-1], k.shape[-2])
