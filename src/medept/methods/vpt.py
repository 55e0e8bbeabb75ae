"""Visual Prompt Tuning (Jia et al., ECCV 2022): learnable tokens beside the image's.

EPT's prompts steer *inside* the softmax; VPT's add keys, values and queries to it. The details are
those of the authors' code: prompts stand after the prefix tokens (class token, registers), and
VPT-deep puts fresh ones before every block in place of what the block before made of the last ones.
In chosen layers they are put in before the first one chosen and replaced at the others; in between,
and after the last, they go on through the blocks like any token, as VPT-shallow's do, and as theirs
do by default where not every layer has prompts. After the last block they are taken out, so that
whatever pools the tokens does not see them; the class token, which is all that the original reads,
is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from medept.encoders.layers import add_prefix_tokens
from medept.errors import SettingsError
from medept.methods.token_prompts import TokenPrompts


class VisualPromptTuning(TokenPrompts):
    """Trains ``length`` tokens of width D for each chosen block.

    ``layers`` is ``"all"`` for VPT-deep and ``"first"`` for VPT-shallow. In ``"9-12"`` of twelve
    the lower two thirds are the plain encoder, and are computed once.

    Learns by the SGD of the original, at the lowest of the ten rates that it searches. Where images
    have far fewer tokens than 197, fewer prompts do better.
    """

    class Settings(TokenPrompts.Settings):
        """Where prompts are, and how many."""

        length: int = Field(default=50, ge=1)
        """Prompt tokens per block."""

    name = "vpt"
    summary = "learnable tokens beside the image's"
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"length": (1, 5, 10, 50, 100, 150)}
    settings: Settings

    def prompt_length(self, layer: int) -> int:
        return self.settings.length

    def insert(self) -> None:
        super().insert()
        for i, layer in enumerate(self.layers):
            self.before(self.encoder.blocks[layer], self._placing(i))
        self.after(self.encoder.blocks[-1], self._dropped)
        prompted = self.encoder.sites[self.layers[0] :]
        add_prefix_tokens(prompted, self.settings.length, self._hooks)
        self._try()

    @torch.no_grad()
    def _try(self) -> None:
        try:
            self.encoder(self.encoder.example())
        except RuntimeError as error:
            self.remove()
            raise SettingsError(
                f"{self.encoder.name!r} takes no tokens beside its own, as where attention has "
                f"relative positions: use another method ({error})"
            ) from error

    def tokens(self, index: int) -> Tensor:
        """The tokens (length, D) of a chosen block, these counted from 0."""
        return self.prompts[index]

    def _placing(self, index: int) -> Callable[[Tensor], Tensor]:
        def place(tokens: Tensor) -> Tensor:
            prefix = self.encoder.sites[0].prefix
            rest = tokens[:, prefix + (self.settings.length if index else 0) :]
            prompt = self.tokens(index).to(tokens.dtype).expand(len(tokens), -1, -1)
            return torch.cat([tokens[:, :prefix], prompt, rest], dim=1)

        return place

    def _dropped(self, tokens: Tensor) -> Tensor:
        prefix = self.encoder.sites[0].prefix
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.settings.length :]], dim=1)
