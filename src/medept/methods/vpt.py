"""Visual Prompt Tuning (Jia et al., ECCV 2022): learnable tokens beside the image's.

EPT's prompts steer *inside* the softmax; VPT's add keys, values and queries to it. The details are
those of the authors' code: prompts stand after the prefix tokens (class token, registers), and
VPT-deep puts fresh ones before every block in place of the last block's. Here they are taken out
after the last block, so that whatever pools the tokens does not see them; the class token, which
is all that the original reads, is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from medept.errors import InputError
from medept.internals import add_prefix_tokens
from medept.methods.token_prompts import TokenPrompts


class VisualPromptTuning(TokenPrompts):
    """Trains ``length`` tokens of width D for each prompted block (deep) or the first (shallow).

    The original has no rate of its own: with SGD it searches nine, from 0.1 to 50 for a batch of
    256, on each task's validation set. AdamW, 1e-3, is the best of 1e-4 to 1e-2 on small data.
    Where images have far fewer tokens than 197, fewer prompts do better.
    """

    class Settings(TokenPrompts.Settings):
        """length: tokens a block. deep: before every block. frozen: keep the initial values."""

        length: int = Field(default=50, ge=1)
        deep: bool = True

    name = "vpt"
    summary = "learnable tokens beside the image's"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"length": (1, 5, 10, 50, 100, 150)}
    settings: Settings

    def prompt_lengths(self) -> list[int]:
        return [self.settings.length] * (len(self.encoder.blocks) if self.settings.deep else 1)

    def insert(self) -> None:
        super().insert()
        for i in range(len(self.prompts)):
            self.before(self.encoder.blocks[i], self._placing(i))
        self.after(self.encoder.blocks[-1], self._dropped)
        add_prefix_tokens(self.encoder, self.settings.length, self._hooks)
        self._try()

    @torch.no_grad()
    def _try(self) -> None:
        try:
            self.encoder(self.encoder.example())
        except RuntimeError as error:
            self.remove()
            raise InputError(
                f"{self.encoder.name!r} takes no tokens beside its own, as where attention has "
                f"relative positions: use another method ({error})"
            ) from error

    def _placing(self, index: int) -> Callable[[Tensor], Tensor]:
        def place(tokens: Tensor) -> Tensor:
            prefix = self.encoder.sites[0].prefix
            rest = tokens[:, prefix + (self.settings.length if index else 0) :]
            prompt = self.prompts[index].to(tokens.dtype).expand(len(tokens), -1, -1)
            return torch.cat([tokens[:, :prefix], prompt, rest], dim=1)

        return place

    def _dropped(self, tokens: Tensor) -> Tensor:
        prefix = self.encoder.sites[0].prefix
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.settings.length :]], dim=1)
