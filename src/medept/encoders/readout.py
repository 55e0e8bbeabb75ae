"""What is read of an encoder: which tokens, of which blocks.

A classifier usually reads one vector, ``pooled``: the class token behind the final norm, or the
mean of the patch tokens, as the model's own classifier would. Earlier blocks and the patches know
more, above all about images that the encoder was not trained on. A readout is written

    PARTS[:BLOCKS]    PARTS: class, mean, std, joined by +    BLOCKS: last-N, or all

where ``class`` is the class token, ``mean`` and ``std`` the mean and the standard deviation of the
patch tokens over the image, channel by channel. Each part of each block is scaled to length one,
and all stand side by side. ``last-4`` is short for ``class:last-4``; without BLOCKS the last block
is read.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.encoders.patching import CHANGING_MODULES
from medept.ept.sites import AttentionSite
from medept.errors import EncoderError, SettingsError


class Readable(Protocol):
    """What a readout has to know of an encoder."""

    model: nn.Module
    name: str

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in order of execution."""

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The self-attentions, in order of execution."""

    def example(self) -> Tensor:
        """An input image (1, 3, H, W)."""

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which it computes in its own precision."""


PARTS = ("class", "mean", "std")

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_embedding", "cls")
"""What libraries call the parameter that is the class token before the first block."""

_BLOCKS = re.compile(r"last-(?P<count>[1-9][0-9]*)|all")


@dataclass(frozen=True)
class Readout:
    """A readout, parsed.

    Attributes:
        parts: of :data:`PARTS`; empty for ``pooled``.
        blocks: how many of the last blocks are read; None for all of them.
    """

    parts: tuple[str, ...] = ()
    blocks: int | None = 1

    @classmethod
    def parse(cls, text: str) -> Readout:
        """A readout from its name.

        Raises:
            SettingsError: if it is none.

        >>> Readout.parse("class+std:last-4")
        Readout(parts=('class', 'std'), blocks=4)
        >>> str(Readout.parse("last-4")), str(Readout.parse("pooled")), str(Readout.parse("mean"))
        ('class:last-4', 'pooled', 'mean:last-1')
        """
        if text == "pooled":
            return cls()
        if ":" not in text:
            text = f"class:{text}" if _BLOCKS.fullmatch(text) else f"{text}:last-1"
        names, _, blocks = text.partition(":")
        parts, found = tuple(names.split("+")), _BLOCKS.fullmatch(blocks)
        if not found or len(set(parts)) < len(parts) or not set(parts) <= set(PARTS):
            raise SettingsError(
                f"readout={text!r}: give pooled, or class, mean and std joined by +, with :last-N "
                "or :all for the blocks that are read, such as class+std:all"
            )
        return cls(parts, int(found["count"]) if found["count"] else None)

    def __str__(self) -> str:
        if not self.parts:
            return "pooled"
        return f"{'+'.join(self.parts)}:{'all' if self.blocks is None else f'last-{self.blocks}'}"

    def read(self, encoder: Readable, pixels: Tensor) -> Tensor:
        """Features (B, D) of pixels (B, 3, H, W): D = width x parts x blocks."""
        outputs: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs.append(output if isinstance(output, Tensor) else output[0])

        blocks = encoder.blocks[-(self.blocks or 0) :]
        with CHANGING_MODULES:  # or another thread's images would be kept too
            hooks = [block.register_forward_hook(keep) for block in blocks]
            try:
                encoder.model(pixels)
            finally:
                for hook in hooks:
                    hook.remove()
        prefix = encoder.sites[-1].prefix
        features = [self._part(part, tokens, prefix) for tokens in outputs for part in self.parts]
        return torch.cat(features, dim=-1)

    @staticmethod
    def _part(part: str, tokens: Tensor, prefix: int) -> Tensor:
        """One part of a block's tokens (B, T, D), of length one: (B, D)."""
        tokens = tokens.float()
        if part == "class":
            found = tokens[:, 0]
        elif part == "mean":
            found = tokens[:, prefix:].mean(dim=1)
        else:
            found = tokens[:, prefix:].std(dim=1)
        return F.normalize(found, dim=-1)

    def check(self, encoder: Readable) -> None:
        """Refuse what cannot be read of an encoder.

        Raises:
            EncoderError: if it has no class token, fewer blocks, or blocks of another form.
        """
        if not self.parts:
            return
        if (self.blocks or 1) > len(encoder.blocks):
            raise EncoderError(
                f"readout={self}: {encoder.name!r} has {len(encoder.blocks)} blocks only"
            )
        if "class" in self.parts and not has_class_token(encoder):
            raise EncoderError(
                f"readout={self}: {encoder.name!r} has no class token; read mean or mean+std"
            )
        if not _blocks_give_tokens(encoder):
            raise EncoderError(
                f"readout={self}: the blocks of {encoder.name!r} do not all give the same tokens; "
                "take readout=pooled"
            )


def default_readout(encoder: Readable) -> Readout:
    """What is measured to be best: class token and spread of the patches, of every block.

    Encoders without class token give the patches' mean in its place; those whose blocks differ
    (Swin) what their own classifier would read.
    """
    parts = "class+std:all" if has_class_token(encoder) else "mean+std:all"
    readout = Readout.parse(parts)
    try:
        readout.check(encoder)
    except EncoderError:
        return Readout()
    return readout


def has_class_token(encoder: Readable) -> bool:
    """Whether the first token of its blocks is a class token, by the name of a parameter."""
    if not encoder.sites[-1].prefix:
        return False
    names = (name.rpartition(".")[2] for name, _ in encoder.model.named_parameters())
    return any(name in _CLASS_TOKENS for name in names)


@torch.no_grad()
def _blocks_give_tokens(encoder: Readable) -> bool:
    """Whether every block gives (B, T, D), with T and D alike: seen on a batch of two."""
    shapes: list[tuple[int, ...]] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        shapes.append(tuple(first.shape) if isinstance(first, Tensor) else ())

    tokens = {site.tokens for site in encoder.sites}
    with CHANGING_MODULES:
        hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
        try:
            with encoder.autocast():
                encoder.model(encoder.example().expand(2, -1, -1, -1))
        finally:
            for hook in hooks:
                hook.remove()
    return (
        len(tokens) == 1
        and len(shapes) == len(encoder.blocks)
        and len(set(shapes)) == 1
        and shapes[0][:2] == (2, *tokens)
    )
