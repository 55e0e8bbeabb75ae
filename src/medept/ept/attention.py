"""Attention with learnable prompts inside its softmax: Embedded Prompt Tuning.

For query i, with logits u_ij over the keys j, ordinary attention gives

    attention_i = sum_j softmax_j(u_ij) v_j.

Embedded Prompt Tuning (Zu et al., Medical Image Analysis 97, 2024, equation 5) appends a row of L
learnable logits p_i1 ... p_iL, takes the softmax over all of them, and drops the L new weights
before the product with the values:

    out_i = sum_j exp(u_ij) / (sum_k exp(u_ik) + sum_l exp(p_il)) v_j.

Only the sum over the prompts matters. With

    z_i = logsumexp_k u_ik   and   s_i = logsumexp_l p_il,

the fraction is the ordinary softmax times exp(z_i) / (exp(z_i) + exp(s_i)), so that

    out_i = sigmoid(z_i - s_i) * attention_i.

EPT is therefore ordinary attention times one *gate* for each head and token, and s_i is an
attention *sink*: a logit that takes a share of the softmax but adds no value. Prompts of any length
L collapse into one number per token, s_i. And any attention kernel that returns z beside its output
computes EPT exactly, forwards and backwards, without a matrix of T x (T + L) weights: see
:mod:`medept.ept.kernels`.

This is the paper's way ``concat``. Its Figure 5 has three more (:data:`WAYS`), of which
``multiply_concat`` is a sink too.

A prompt p_il that is learnt for each token knows where the token stands, and not what it shows. The
way ``keys`` learns L keys kappa_l for each head in its place, as wide as the attention's own:

    p_il = scale * q_i . kappa_l.

This is equation 5 again, with a gate that is a function of the token's own query; or attention with
L more keys whose values are zero. It needs no grid of tokens, and serves images of any size.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from medept.ept import kernels
from medept.ept.operands import Operands, learns, logits, precise, prepare

Way = Literal["concat", "multiply_concat", "add", "multiply", "keys"]
WAYS: tuple[Way, ...] = get_args(Way)
"""How a prompt P enters the logits u:

- ``concat``: L more logits in each row (equation 5).
- ``multiply_concat``: the same, with row i of the prompt multiplied by max_j u_ij - min_j u_ij over
  the keys that are not masked. Holds :data:`KEYS_AT_ONCE` columns of logits in memory.
- ``add``: u + P, where L is the number of keys. Holds all logits in memory.
- ``multiply``: u * P, likewise; a float mask is added to the product.
- ``keys``: not the paper's. L more logits in each row, from learnt keys: scale * q . kappa.
"""

Kernel = Literal["auto", "formula", "fused", "extra_key"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""What computes attention with a sink (:mod:`medept.ept.kernels`); ``auto`` chooses."""

KEYS_AT_ONCE = 256
"""For how many keys ``multiply_concat`` holds the logits at once."""


def prompted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt: Tensor,
    *,
    way: Way = "concat",
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    kernel: Kernel = "auto",
) -> Tensor:
    """Attention (B, H, T, e) with a prompt inside its softmax.

    A row whose keys are all masked gives zeros. Three keys and three prompts with equal logits
    share the softmax equally, so the output is half of what it is without prompts:

    >>> q, v, prompt = torch.zeros(1, 1, 3, 8), torch.ones(1, 1, 3, 8), torch.zeros(3, 3)
    >>> prompted_attention(q, q, v, prompt)[0, 0, :, 0]
    tensor([0.5000, 0.5000, 0.5000])

    Args:
        q: queries (B, H, T, d).
        k: keys (B, H, S, d).
        v: values (B, H, S, e).
        prompt: (T, L), shared by the heads, or (H, T, L), in units of the logits u; of the way
            ``keys`` (H, L, d), in units of the keys.
        way: how the prompt enters the logits, one of :data:`WAYS`.
        attn_mask: as in ``torch.nn.functional.scaled_dot_product_attention``. A float mask masks a
            key by -inf or by the lowest number of its dtype.
        dropout_p: the same; it acts on the softmax over keys and prompt together.
        is_causal: the same.
        scale: the same; by default 1 / sqrt(d).
        enable_gqa: the same; keys and values may then have fewer heads.
        kernel: one of :data:`KERNELS`, for the three ways that are sinks.

    Raises:
        ValueError: for an unknown way or kernel, shapes that do not fit together, ``attn_mask``
            with ``is_causal``, and dropout or a learnt mask with the kernel ``fused``.
    """
    if way not in WAYS:
        raise ValueError(f"way {way!r} is not one of {WAYS}")
    _check_kernel(kernel)
    operands = prepare(
        q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    prompt = prompt.to(precise(operands.q))
    if way == "concat":
        return _with_sink(operands, prompt.logsumexp(-1), dropout_p, kernel)
    if way == "keys":
        sink = sink_of_keys(operands.q, prompt, operands.scale)
        return _with_sink(operands, sink, dropout_p, kernel)
    if way == "multiply_concat":
        scaled = _row_spread(operands)[..., None] * prompt
        return _with_sink(operands, scaled.logsumexp(-1), dropout_p, kernel)
    if prompt.shape[-1] != (keys := operands.k.shape[-2]):
        raise ValueError(
            f"way {way!r} needs a prompt as long as there are keys, {keys}, not {prompt.shape[-1]}"
        )
    if way == "add":
        return _added(operands, prompt, dropout_p)
    return _multiplied(operands, prompt, dropout_p)


def sink_of_keys(q: Tensor, keys: Tensor, scale: float | None = None) -> Tensor:
    """s_i = logsumexp_l(scale * q_i . kappa_l), (B, H, T), in float32 or float64.

    >>> sink_of_keys(torch.ones(1, 1, 3, 4), torch.tensor([[[2.0, 0.0, 0.0, 0.0]]]))
    tensor([[[1., 1., 1.]]])

    Args:
        q: queries (B, H, T, d), as they enter the dot product.
        keys: kappa, (H, L, d).
        scale: by default 1 / sqrt(d).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        return logits(q.to(precise(q)), keys.to(precise(q)), None, scale).logsumexp(-1)


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
    kernel: Kernel = "auto",
) -> Tensor:
    """Attention (B, H, T, e) times sigmoid(z - s): what prompts that are sinks come to.

    A row whose keys are all masked gives zeros. A sink as large as the sum of the keys halves the
    output, and one of -inf leaves plain attention:

    >>> q, v = torch.zeros(1, 1, 3, 8), torch.ones(1, 1, 3, 8)
    >>> sink = torch.tensor([3.0, 1.0, 0.0]).log()
    >>> sink_attention(q, q, v, sink)[0, 0, :, 0]
    tensor([0.5000, 0.7500, 1.0000])

    Args:
        q: queries (B, H, T, d).
        k: keys (B, H, S, d).
        v: values (B, H, S, e).
        sink: s, broadcastable to (B, H, T).
        attn_mask: as in :func:`prompted_attention`, like all that follow.
        dropout_p: the same.
        is_causal: the same.
        scale: the same.
        enable_gqa: the same.
        kernel: the same.

    Raises:
        ValueError: as :func:`prompted_attention`.
    """
    _check_kernel(kernel)
    operands = prepare(
        q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return _with_sink(operands, sink, dropout_p, kernel)


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

    A sink s needs no more than these two: it multiplies the output by sigmoid(z - s). Not
    differentiable.
    """
    return _with_logsumexp(
        prepare(
            q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        )
    )


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
    """The gates sigmoid(z - s), (B, H, T): by how much a sink scales each head and token.

    A row whose keys are all masked has the gate 0. Not differentiable.

    >>> q = torch.zeros(1, 1, 3, 8)
    >>> gates(q, q, torch.tensor([3.0, 1.0, 0.0]).log())
    tensor([[[0.5000, 0.7500, 1.0000]]])
    """
    operands = prepare(
        q, k, k, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    _, z = _with_logsumexp(operands)
    gate = torch.sigmoid(z - sink.to(z.dtype))
    if operands.bias is None:
        return gate
    return gate.masked_fill((operands.bias == float("-inf")).all(-1), 0)


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
    """softmax(u) without a prompt, averaged over the heads: (B, T, S). For looking at."""
    operands = prepare(
        q, k, k, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return _precise_logits(operands).softmax(-1).mean(-3)


def choose_kernel(
    q: Tensor, k: Tensor, *, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Kernel:
    """The kernel that ``auto`` takes: ``fused`` if the device has one that can, else ``extra_key``.

    The fused kernels (CPU; CUDA, but for float64) have no dropout, no gradient of a mask and no
    form for export. cuDNN's is not among them: on an H100 it is slower than flash attention
    (docs/speed.md).

    >>> q = torch.zeros(1, 1, 3, 8)
    >>> choose_kernel(q, q), choose_kernel(q, q, dropout_p=0.1)
    ('fused', 'extra_key')
    """
    empty = not (q.shape[-2] and k.shape[-2])
    if dropout_p or learns(attn_mask) or empty or torch.compiler.is_exporting():
        return "extra_key"
    return "fused" if q.is_cpu or (q.is_cuda and q.dtype != torch.float64) else "extra_key"


# --- sinks ---------------------------------------------------------------------------------------


def _check_kernel(kernel: str) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {KERNELS}")


def _with_sink(operands: Operands, sink: Tensor, dropout_p: float, kernel: Kernel) -> Tensor:
    q, k, _, bias, _ = operands
    if kernel == "auto":
        kernel = choose_kernel(q, k, attn_mask=bias, dropout_p=dropout_p)
    sink = sink.to(precise(q))
    if kernel != "fused" or bias is not None or torch.is_grad_enabled():
        # an infinite sink would give NaN beside a masked row, and in the backward
        sink = sink.clamp(torch.finfo(sink.dtype).min, torch.finfo(sink.dtype).max)
    if kernel == "formula":
        return kernels.formula(operands, sink, dropout_p)
    if kernel == "extra_key":
        return kernels.extra_key(operands, sink, dropout_p)
    if dropout_p:
        raise ValueError("the kernel 'fused' has no dropout: use 'extra_key'")
    if learns(bias):
        raise ValueError("the kernel 'fused' gives a mask no gradient: use 'extra_key'")
    return kernels.fused(operands, sink)


def _with_logsumexp(operands: Operands) -> tuple[Tensor, Tensor]:
    if choose_kernel(operands.q, operands.k, attn_mask=operands.bias) == "fused":
        return kernels.fused_with_logsumexp(operands)
    u, v = _precise_logits(operands), operands.v
    return torch._safe_softmax(u, -1).to(v.dtype) @ v, u.logsumexp(-1)


def _precise_logits(operands: Operands) -> Tensor:
    q, k, _, bias, scale = operands
    return logits(q.to(precise(q)), k.to(precise(q)), bias, scale)


# --- the other ways ------------------------------------------------------------------------------


def _added(operands: Operands, prompt: Tensor, dropout_p: float) -> Tensor:
    """softmax(u + P) v."""
    q, k, v, bias, scale = operands
    added = prompt.to(q.dtype) if bias is None else prompt.to(q.dtype) + bias
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=added, dropout_p=dropout_p, scale=scale
    )


def _multiplied(operands: Operands, prompt: Tensor, dropout_p: float) -> Tensor:
    """softmax(u * P) v."""
    bias, v = operands.bias, operands.v
    u = _precise_logits(operands._replace(bias=None)) * prompt
    weights = torch._safe_softmax(u if bias is None else u + bias, -1)
    return F.dropout(weights, dropout_p).to(v.dtype) @ v


def _row_spread(operands: Operands) -> Tensor:
    """max_j u_ij - min_j u_ij over the keys that are not masked: (B, H, T), with its gradient.

    Of a row without keys it is 0.
    """
    q, k, _, bias, scale = operands
    ends = [index[..., None] for index in _row_extremes(operands)]
    top, bottom = (k.gather(-2, index.expand_as(q)).to(precise(q)) for index in ends)
    spread = (q * (top - bottom)).sum(-1) * scale
    if bias is None:
        return spread
    rows = bias.expand(*q.shape[:-1], k.shape[-2])
    top, bottom = (rows.gather(-1, index)[..., 0] for index in ends)
    return spread + torch.where(top > float("-inf"), top - bottom, 0)


@torch.no_grad()
def _row_extremes(operands: Operands) -> tuple[Tensor, Tensor]:
    """The keys with each row's largest and smallest logit, found :data:`KEYS_AT_ONCE` at a time."""
    q, k, _, bias, scale = operands
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, k.shape[-2], KEYS_AT_ONCE):
        block = slice(start, start + KEYS_AT_ONCE)
        part = None if bias is None else bias.expand(*bias.shape[:-1], k.shape[-2])[..., block]
        u = logits(q, k[..., block, :], part, scale)
        top, at_top = u.max(-1)
        bottom, at_bottom = u.masked_fill(u == float("-inf"), float("inf")).min(-1)
        found.append((top, bottom, at_top + start, at_bottom + start))
    tops, bottoms, at_tops, at_bottoms = (torch.stack(part) for part in zip(*found, strict=True))
    first, last = tops.argmax(0, keepdim=True), bottoms.argmin(0, keepdim=True)
    return at_tops.gather(0, first)[0], at_bottoms.gather(0, last)[0]
