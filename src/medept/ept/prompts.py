"""The learnable prompt of one attention layer: its shape, initial values, resizing and merging.

Embedded Prompt Tuning (Zu et al., Medical Image Analysis 97, 2024, equation 5) puts a prompt P
inside the softmax of a frozen attention: row i of the logits u gets the L entries of P's row i
appended, the softmax runs over T + L entries, and the L prompt entries are dropped before the
product with the values. With way ``concat`` the prompt acts only through

    s_i = logsumexp_l p_il,        out_i = attention_i * sigmoid(logsumexp_j u_ij - s_i),

so a trained prompt of any length *merges* into one logit s_i per token (:meth:`merge`), with the
same output.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from torch import Tensor, nn

from medept.ept.attention import (
    Kernel,
    Way,
    attention_weights,
    first,
    gates,
    prompted_attention,
    sink_attention,
)
from medept.errors import SettingsError

Init = Literal["normal", "uniform", "zeros", "kaiming", "identity"]
Layers = Annotated[
    str | tuple[int, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int) else value),
]
"""A choice of layers, as :func:`parse_layers` reads it; a number is that layer alone."""

IDENTITY_GATE = 0.98
"""The gate at which ``init="identity"`` starts, for logits that are all zero."""


class EmbeddedPromptConfig(BaseModel):
    """What prompts to put into an encoder, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    length: int | Literal["auto"] = "auto"
    """Prompt length L, or ``auto``: a tenth of the number of tokens. Where the prompt starts near
    0 its gate is about T / (T + L), so the length sets how far the encoder starts from itself. The
    ways ``add`` and ``multiply`` have L = T by definition and ignore it."""

    layers: Layers = "all"
    """``all`` (EPT-deep), ``first`` (EPT-shallow), or layer numbers counted from 1: ``9-12``,
    ``1,2,12`` or a list such as ``[9, 10, 11, 12]``."""

    way: Way = "concat"
    """How the prompt enters the logits (the paper's Figure 5): ``concat``, ``multiply_concat``,
    ``add`` or ``multiply``."""

    init: Init = "normal"
    """Initial values. ``normal``: standard deviation 0.02 (the paper's); ``uniform``: within 0.08
    of 0; ``zeros``; ``kaiming``: uniform with fan-in L; ``identity``: the encoder starts (almost)
    as it was, whatever the length. Under the way ``multiply`` they are offsets from 1, so that
    each starts near the identity."""

    per_head: bool = False
    """One prompt for each head instead of the paper's one shared by all heads."""

    collapsed: bool = False
    """Learn s_i itself, one number a token, in place of the L that it sums (``concat`` only). It
    starts where the full form of this length would start."""

    frozen: bool = False
    """Keep the prompts at their initial values (the experiment of the paper's Table 3)."""

    kernel: Kernel = Field(default="auto", exclude=True)
    """Which attention kernel runs; ``auto`` chooses (see :mod:`medept.ept.attention`). The ways
    ``add`` and ``multiply`` have one alone."""

    @field_validator("length")
    @classmethod
    def _positive(cls, length: int | str) -> int | str:
        if isinstance(length, int) and length < 1:
            raise ValueError("the prompt length must be at least 1")
        return length

    @model_validator(mode="after")
    def _consistent(self) -> EmbeddedPromptConfig:
        if self.collapsed and self.way != "concat":
            raise ValueError(f"only the way 'concat' can be collapsed, not {self.way!r}")
        if self.init == "identity" and self.way == "multiply_concat":
            raise ValueError(
                "init 'identity' needs a prompt that is not scaled by the logits; "
                "use another init with the way 'multiply_concat'"
            )
        return self

    def chosen_layers(self, depth: int) -> list[int]:
        """Indices, counted from 0, of the chosen layers among ``depth``."""
        return parse_layers(self.layers, depth)


def parse_layers(layers: Layers, depth: int) -> list[int]:
    """Indices from 0 of layers named as ``"all"``, ``"first"``, ``"9-12"``, ``"1,3"`` or a list.

    Raises:
        InputError: if the text cannot be read, or names a layer outside 1..depth.
    """
    if layers == "all":
        return list(range(depth))
    if layers == "first":
        return [0]
    try:
        numbers = list(layers) if not isinstance(layers, str) else _parse_ranges(layers)
    except ValueError:
        raise SettingsError(
            f"layers {layers!r} cannot be read: use 'all', 'first', a range such as '9-12' "
            "or a list such as '1,2,12'"
        ) from None
    outside = [n for n in numbers if not 1 <= n <= depth]
    if outside or not numbers:
        raise SettingsError(
            f"layers {layers!r} name {outside or 'nothing'}: this encoder has layers 1 to {depth}"
        )
    return sorted({n - 1 for n in numbers})


def _parse_ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    return numbers


class EmbeddedPrompt(nn.Module):
    """A prompt for one attention of T tokens, of which ``prefix`` have no place on the grid.

    ``prompt`` is the one parameter: (T, L), or (H, T, L) per head; merged or collapsed, it holds
    the logits s: (T,) or (H, T).
    """

    def __init__(
        self, config: EmbeddedPromptConfig, *, heads: int, prefix: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.way, self.kernel = config.way, config.kernel
        self.prefix, self.grid = prefix, grid
        self.collapsed = config.collapsed
        tokens = prefix + grid[0] * grid[1]
        length = self._length(config, tokens)
        values = _initial(config, (heads, tokens, length) if config.per_head else (tokens, length))
        if config.collapsed:
            values = values.logsumexp(-1)
        self.prompt = nn.Parameter(values, requires_grad=not config.frozen)
        self.recording = False
        self.recorded: Tensor | None = None
        self.recorded_attention: Tensor | None = None

    @staticmethod
    def _length(config: EmbeddedPromptConfig, tokens: int) -> int:
        if config.way in ("add", "multiply"):
            return tokens
        return max(1, round(tokens / 10)) if config.length == "auto" else config.length

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
        """Stands in for ``torch.nn.functional.scaled_dot_product_attention``.

        Where there are fewer queries than keys, they are those of the first tokens.
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
        count, tokens = query.shape[-2], key.shape[-2]
        if self.way == "concat":
            return sink_attention(query, key, value, first(count, self.sink(tokens)), **options)
        prompt = self.sized(tokens)[..., :count, :]
        return prompted_attention(query, key, value, prompt, way=self.way, **options)

    def _record(self, query: Tensor, key: Tensor, options: dict[str, Any]) -> None:
        if self.way != "concat":
            raise SettingsError(f"gates are the scaling of the way 'concat'; this is {self.way!r}")
        sink = first(query.shape[-2], self.sink(key.shape[-2])).detach()
        with torch.autocast(query.device.type, enabled=False):  # to look at: precisely
            query, key = _precise(query), _precise(key)
            self.recorded = gates(query, key, sink, **options)
            self.recorded_attention = attention_weights(query, key, **options)

    def sink(self, tokens: int) -> Tensor:
        """s for an input of ``tokens`` tokens, (T,) or (H, T): all that the way ``concat`` needs.

        It is s that is resized, not the prompt, whose L entries have no order: so merging changes
        nothing at any resolution.
        """
        s = self.prompt if self.collapsed else _sum(self.prompt)
        return s if s.shape[-1] == tokens else self._resized(s[..., None], tokens)[..., 0]

    def gate(self, attended: Tensor, logsumexp: Tensor, tokens: int) -> Tensor:
        """What :meth:`forward` gives, from the attention without the prompt (way ``concat``).

        Args:
            attended: its output (B, H, T, d), of the first T of ``tokens`` tokens.
            logsumexp: of its logits, (B, H, T).
        """
        sink = first(attended.shape[-2], self.sink(tokens))
        return (attended * torch.sigmoid(logsumexp - sink)[..., None]).to(attended.dtype)

    def sized(self, tokens: int) -> Tensor:
        """The prompt for an input of ``tokens`` tokens; ``add`` and ``multiply``: on both sides."""
        prompt = self._resized(self.prompt, tokens)
        if self.way in ("add", "multiply"):
            prompt = self._resized(prompt.transpose(-1, -2), tokens).transpose(-1, -2)
        return prompt

    def _resized(self, rows: Tensor, tokens: int) -> Tensor:
        """Rows (..., T, L), interpolated over the token grid if the input has another."""
        if tokens == rows.shape[-2]:
            return rows
        new = _new_grid(self.grid, tokens - self.prefix)
        return _resize(rows, self.prefix, self.grid, new)

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Take saved values: of this prompt's own shape, or merged.

        Those of the way ``concat`` that were made for another token grid come merged, resized to
        this one.

        Raises:
            InputError: if they were made for other heads, another length, or a grid of other
                proportions.
        """
        full = self.prompt.ndim + self.collapsed  # dimensions, with the length
        known = self.way == "concat" and values.ndim in (full - 1, full)
        if known and values.shape[full - 2] != self.prompt.shape[full - 2]:
            values = self._from_other_grid(values if values.ndim < full else _sum(values))
        merges = known and values.ndim < self.prompt.ndim
        if values.shape != (self.prompt.shape[:-1] if merges else self.prompt.shape):
            raise SettingsError(
                f"saved prompts of shape {tuple(values.shape)} do not fit this encoder, whose "
                f"prompts have shape {tuple(self.prompt.shape)}"
            )
        if merges:
            self.merge()
        self.prompt.copy_(values)

    def _from_other_grid(self, s: Tensor) -> Tensor:
        """s for this prompt's grid, from that for another."""
        old = _new_grid(self.grid, max(0, s.shape[-1] - self.prefix))
        if old[0] * self.grid[1] != old[1] * self.grid[0]:
            raise SettingsError(
                f"saved prompts of {s.shape[-1]} tokens are of no grid like the "
                f"{self.grid[0]} x {self.grid[1]} of this encoder"
            )
        return _resize(_precise(s)[..., None], self.prefix, old, self.grid)[..., 0]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """One logit per token, (T,) or (H, T), with which the output stays the same.

        Raises:
            InputError: for a way other than ``concat``, whose prompt depends on the image
                (``multiply_concat``) or on the pair of tokens (``add``, ``multiply``).
        """
        if self.collapsed:
            return self.prompt.detach()
        if self.way != "concat":
            raise SettingsError(
                f"a prompt embedded by {self.way!r} does not collapse to one number per token: "
                "only 'concat' does. Save the prompt itself instead"
            )
        values = self.prompt.cpu() if self.prompt.is_mps else self.prompt  # MPS has no float64
        return values.double().logsumexp(-1).to(self.prompt)

    def merge(self) -> None:
        """Collapse the prompt in place to :meth:`merged`."""
        self.prompt = nn.Parameter(self.merged(), requires_grad=self.prompt.requires_grad)
        self.collapsed = True


def _sum(prompt: Tensor) -> Tensor:
    """s of a prompt (..., T, L)."""
    return _precise(prompt).logsumexp(-1)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _initial(config: EmbeddedPromptConfig, shape: tuple[int, ...]) -> Tensor:
    values = torch.zeros(shape)
    tokens, length = shape[-2:]
    if config.init == "normal":
        nn.init.normal_(values, std=0.02)
    elif config.init == "uniform":
        nn.init.uniform_(values, -0.08, 0.08)
    elif config.init == "kaiming":
        bound = math.sqrt(6 / length)
        nn.init.uniform_(values, -bound, bound)
    elif config.init == "identity" and config.way == "concat":
        values += math.log(tokens / length) - math.log(IDENTITY_GATE / (1 - IDENTITY_GATE))
    return values + 1 if config.way == "multiply" else values


def _new_grid(old: tuple[int, int], patches: int) -> tuple[int, int]:
    """The grid of ``patches`` patches whose sides are closest in proportion to the old grid's."""
    rows = round(math.sqrt(patches * old[0] / old[1])) if old[1] else 0
    if rows < 1 or patches % rows:
        raise SettingsError(
            f"{patches} patches do not form a grid like the {old[0]} x {old[1]} that the prompts "
            "were made for: use images of the same proportions"
        )
    return rows, patches // rows


def _resize(prompt: Tensor, prefix: int, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of (..., T, L) over the token grid; prefix rows are kept apart."""
    head, body = prompt[..., :prefix, :], prompt[..., prefix:, :]
    length = prompt.shape[-1]
    image = body.reshape(-1, *old, length).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    body = image.permute(0, 2, 3, 1).reshape(*prompt.shape[:-2], new[0] * new[1], length)
    return torch.cat([head, body], dim=-2)
