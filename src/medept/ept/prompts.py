"""The learnable prompt of one attention: its parameter, and how it acts, merges and is resized.

:mod:`medept.ept.attention` has the mathematics.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medept.ept.attention import (
    attention_weights,
    gates,
    prompted_attention,
    sink_attention,
    sink_of_keys,
)
from medept.ept.config import EmbeddedPromptConfig
from medept.ept.grid import Grid, GridWatch, resize_rows, similar_grid
from medept.ept.operands import first, precise
from medept.errors import EncoderError, SettingsError

IDENTITY_GATE = 0.98
"""The gate at which ``init="identity"`` starts, for logits that are all zero."""

KEY_DEVIATION = 0.5
"""The standard deviation of keys with ``init="normal"``. Closer to each other they have nearly the
same gradient: AdamW then moves all of a head by the same steps, and they stay one key."""


class EmbeddedPrompt(nn.Module):
    """A prompt for an attention of T tokens. It is called in place of the attention itself.

    >>> config = EmbeddedPromptConfig(length=4, init="zeros")
    >>> prompt = EmbeddedPrompt(config, heads=3, width=8, prefix=1, grid=(4, 4))
    >>> q, v = torch.zeros(1, 3, 17, 8), torch.ones(1, 3, 17, 8)
    >>> prompt(q, q, v).mean().item()  # 17 keys beside 4 prompts: 17 / 21
    0.8095...
    >>> prompt.prompt.shape
    torch.Size([17, 4])
    >>> prompt.merge()
    >>> prompt.prompt.shape, prompt(q, q, v).mean().item()
    (torch.Size([17]), 0.8095...)

    Args:
        config: length, way, initial values.
        heads: H.
        width: d, the numbers in one head's query.
        prefix: how many tokens come before the patches, such as a class token.
        grid: rows and columns of the patches; T is ``prefix`` + rows * columns.
        watch: knows the grid of the image that the model is working on; None where no grid is.

    Attributes:
        prompt: the only parameter, (T, L), or (H, T, L) with one prompt per head; without its last
            dimension if it is collapsed. Of the way ``keys`` (H, L, d).
        collapsed: whether the parameter is the sinks s themselves.
        recording: while true, each call keeps its gates and attention.
        recorded: gates (B, H, T) of the last recorded call.
        recorded_attention: attention (B, T, S) of that call without the prompt, mean over heads.
    """

    def __init__(
        self,
        config: EmbeddedPromptConfig,
        *,
        heads: int,
        width: int,
        prefix: int,
        grid: Grid,
        watch: GridWatch | None = None,
    ) -> None:
        super().__init__()
        self.way, self.kernel = config.way, config.kernel
        self.prefix, self.grid, self.watch = prefix, grid, watch
        self.collapsed = config.collapsed
        values = _initial_values(config, heads, prefix + grid[0] * grid[1], width)
        if config.collapsed:
            values = values.logsumexp(-1)
        self.prompt = nn.Parameter(values, requires_grad=not config.frozen)
        self.recording = False
        self.recorded: Tensor | None = None
        self.recorded_attention: Tensor | None = None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Prompted attention, with the signature of ``scaled_dot_product_attention``.

        Fewer queries than keys are those of the first tokens.
        """
        options: dict[str, Any] = {
            "attn_mask": attn_mask,
            "is_causal": is_causal,
            "scale": scale,
            "enable_gqa": enable_gqa,
        }
        if self.recording:
            self._record(query.detach(), key.detach(), options)
        options |= {"dropout_p": dropout_p, "kernel": self.kernel}
        if self.has_gates:
            return sink_attention(query, key, value, self._sink_of(query, key, scale), **options)
        tokens = key.shape[-2]
        prompt = self.sized(tokens, self._grid_of(tokens))[..., : query.shape[-2], :]
        return prompted_attention(query, key, value, prompt, way=self.way, **options)

    @property
    def has_gates(self) -> bool:
        """Whether it is a sink: of the way ``concat``, or ``keys``."""
        return self.way in ("concat", "keys")

    def _sink_of(self, query: Tensor, key: Tensor, scale: float | None) -> Tensor:
        """s of these queries: (T,), (H, T) or (B, H, T)."""
        if self.way == "keys":
            return sink_of_keys(query, self.prompt, scale)
        tokens = key.shape[-2]
        return first(query.shape[-2], self.sink(tokens, self._grid_of(tokens)))

    def _record(self, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        if not self.has_gates:
            raise SettingsError(
                "only prompts of the ways 'concat' and 'keys' have gates; these are of the way "
                f"{self.way!r}"
            )
        sink = self._sink_of(query, key, options["scale"]).detach()
        with torch.autocast(query.device.type, enabled=False):
            query, key = (x.to(precise(x)) for x in (query, key))
            self.recorded = gates(query, key, sink, **options)
            self.recorded_attention = attention_weights(query, key, **options)

    def _grid_of(self, tokens: int) -> Grid | None:
        """The grid of the image that the model is working on; None if its tokens form none.

        Raises:
            InputError: if there are not as many tokens as that grid and the prefix have.
        """
        grid = None if self.watch is None else self.watch.grid
        expected = self.prefix + (math.prod(grid) if grid else math.prod(self.grid))
        if tokens != expected:
            raise EncoderError(
                f"an attention over {tokens} tokens, where {expected} were expected "
                f"({self.prefix} and a grid of {' x '.join(map(str, grid or self.grid))}): prompts "
                "need all patches in their places, without patch dropout or merging, and images "
                "of a size that the model was tried with: attach(model, image_size=(height, width))"
            )
        return grid

    def sink(self, tokens: int, grid: Grid | None = None) -> Tensor:
        """s for an input of ``tokens`` tokens, (T,) or (H, T), of the way ``concat``.

        For another grid it is s that is resized, not the L prompts: so a merged prompt does the
        same at every resolution.

        Args:
            tokens: how many.
            grid: rows and columns of the patches; by default of the proportions of the prompt's
                own.
        """
        s = self.prompt if self.collapsed else _logsumexp(self.prompt)
        return self._resized(s[..., None], tokens, grid)[..., 0]

    def gate(self, attended: Tensor, logsumexp: Tensor, tokens: int) -> Tensor:
        """What :meth:`forward` gives with the way ``concat``, from attention without the prompt.

        Args:
            attended: that attention's output (B, H, T, d), of the first T of ``tokens`` tokens.
            logsumexp: z of its logits, (B, H, T).
            tokens: how many tokens the input has.
        """
        sink = first(attended.shape[-2], self.sink(tokens, self._grid_of(tokens)))
        return (attended * torch.sigmoid(logsumexp - sink)[..., None]).to(attended.dtype)

    def sized(self, tokens: int, grid: Grid | None = None) -> Tensor:
        """The prompt for an input of ``tokens`` tokens: (T, L) or (H, T, L).

        For another grid its rows are resized; with ``add`` and ``multiply`` its columns too. The
        arguments are those of :meth:`sink`.
        """
        prompt = self._resized(self.prompt, tokens, grid)
        if self.way in ("add", "multiply"):
            prompt = self._resized(prompt.transpose(-1, -2), tokens, grid).transpose(-1, -2)
        return prompt

    def _resized(self, rows: Tensor, tokens: int, grid: Grid | None) -> Tensor:
        if tokens == rows.shape[-2] and grid in (None, self.grid):
            return rows
        new = grid or similar_grid(self.grid, tokens - self.prefix)
        return resize_rows(rows, self.prefix, self.grid, new)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The sinks s, (T,) or (H, T): one logit per token, with the same output.

        Keys, whose sinks depend on the image, are as small as they get: they stay what they are.

        Raises:
            InputError: for a way other than ``concat`` and ``keys``. With ``multiply_concat`` the
                sink depends on the image, and with ``add`` and ``multiply`` there is none.
        """
        if self.collapsed or self.way == "keys":
            return self.prompt.detach()
        if self.way != "concat":
            raise SettingsError(
                f"a prompt of the way {self.way!r} does not collapse to one number per token: "
                "only 'concat' does, and 'keys' are as small. Save the prompt itself instead"
            )
        values = self.prompt.cpu() if self.prompt.is_mps else self.prompt  # MPS has no float64
        return values.double().logsumexp(-1).to(self.prompt)

    def merge(self) -> None:
        """Replace the prompt by :meth:`merged`.

        Raises:
            InputError: as there; and for a prompt that FSDP has sharded, which it would lose.
        """
        if hasattr(self.prompt, "full_tensor"):  # a DTensor
            raise EncoderError(
                "prompts that are sharded by FSDP cannot be merged in place: load the gathered "
                "state dict into a model of its own, and merge that"
            )
        self.prompt = nn.Parameter(self.merged(), requires_grad=self.prompt.requires_grad)
        self.collapsed = self.way == "concat"

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Take saved values: prompts of the same shape, or merged ones.

        With the way ``concat`` they may come from another token grid of the same proportions. They
        are then merged and resized to this one.

        Raises:
            InputError: if they were made for other heads, another length, or a grid of other
                proportions.
        """
        full = self.prompt.ndim + self.collapsed  # the dimensions of prompts that are not merged
        sinks = self.way == "concat" and values.ndim in (full - 1, full)
        if sinks and values.shape[full - 2] != self.prompt.shape[full - 2]:
            values = self._from_other_grid(values if values.ndim < full else _logsumexp(values))
        merges = sinks and values.ndim < self.prompt.ndim
        if values.shape != (self.prompt.shape[:-1] if merges else self.prompt.shape):
            raise EncoderError(
                f"saved prompts of shape {tuple(values.shape)} do not fit this encoder, whose "
                f"prompts have shape {tuple(self.prompt.shape)}"
            )
        if merges:
            self.merge()
        self.prompt.copy_(values)

    def _from_other_grid(self, s: Tensor) -> Tensor:
        """Sinks for this prompt's grid, from sinks for another."""
        rows, columns = similar_grid(self.grid, max(0, s.shape[-1] - self.prefix))
        if rows * self.grid[1] != columns * self.grid[0]:
            raise EncoderError(
                f"saved prompts of {s.shape[-1]} tokens fit no grid of the proportions of this "
                f"encoder's {self.grid[0]} x {self.grid[1]}"
            )
        s = s.to(precise(s))
        return resize_rows(s[..., None], self.prefix, (rows, columns), self.grid)[..., 0]


def _logsumexp(prompt: Tensor) -> Tensor:
    """s of prompts (..., T, L)."""
    return prompt.to(precise(prompt)).logsumexp(-1)


def _initial_values(config: EmbeddedPromptConfig, heads: int, tokens: int, width: int) -> Tensor:
    """Prompts (T, L) or (H, T, L), or keys (H, L, d), as the configuration starts them."""
    length = max(1, round(tokens / 10)) if config.length == "auto" else config.length
    if config.way in ("add", "multiply"):
        length = tokens
    shape = (length, width) if config.way == "keys" else (tokens, length)
    values = torch.zeros((heads, *shape) if config.per_head or config.way == "keys" else shape)
    if config.init == "normal":
        nn.init.normal_(values, std=KEY_DEVIATION if config.way == "keys" else 0.02)
    elif config.init == "uniform":
        nn.init.uniform_(values, -0.08, 0.08)
    elif config.init == "kaiming":
        bound = math.sqrt(6 / length)
        nn.init.uniform_(values, -bound, bound)
    elif config.init == "identity" and config.way == "concat":
        values += math.log(tokens / length) - math.log(IDENTITY_GATE / (1 - IDENTITY_GATE))
    return values + 1 if config.way == "multiply" else values
