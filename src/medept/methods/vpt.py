"""Visual Prompt Tuning (Jia et al., ECCV 2022): learnable tokens beside the image's.

EPT's prompts act inside the softmax; VPT's add keys, values and queries to it. The details are
those of the authors' code. Prompts stand after the prefix tokens (class token, registers). They go
in before the first chosen block, and before every other chosen block fresh ones replace what has
become of them. Between chosen blocks and after the last, they pass through the blocks like any
other token, as in VPT-shallow. After the encoder's last block they are taken out, so that whatever
pools the tokens does not see them. The class token, which is all that the paper reads, is the same
either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from medept.encoders.layers import add_prefix_tokens
from medept.errors import SettingsError, is_out_of_memory
from medept.methods.token_prompts import TokenPrompts


class VisualPromptTuning(TokenPrompts):
    """Trains ``length`` tokens of width D for each chosen block.

    ``layers`` is ``"all"`` for VPT-deep and ``"first"`` for VPT-shallow. With ``"9-12"`` of twelve,
    the lower two thirds are the plain encoder and are computed once.

    Learns by the paper's SGD, at the lowest of the ten rates that it searches. Images with far
    fewer tokens than 197 do better with fewer prompts.
    """

    class Settings(TokenPrompts.Settings):
        """Where prompts are, and how many."""

        length: int = Field(default=50, ge=1, le=10_000)
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
        self.after(self.encoder.blocks[-1], self._without_prompts)
        prompted = self.encoder.sites[self.layers[0] :]
        add_prefix_tokens(prompted, self.settings.length, self.on_remove)
        self._refuse_if_it_does_not_run()

    @torch.no_grad()
    def _refuse_if_it_does_not_run(self) -> None:
        try:
            self.encoder(self.encoder.example())
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise SettingsError(
                f"{self.encoder.name!r} takes no tokens beside its own, perhaps because its "
                f"attention has relative positions: use another method ({error})"
            ) from error

    def tokens(self, index: int) -> Tensor:
        """The prompt tokens (length, D) of the chosen block with this index, from 0."""
        return self.prompts[index]

    def _placing(self, index: int) -> Callable[[Tensor], Tensor]:
        """A function that puts these tokens after the prefix, in place of any that are there."""

        def place(tokens: Tensor) -> Tensor:
            prefix = self.encoder.sites[0].prefix
            rest = tokens[:, prefix + (self.settings.length if index else 0) :]
            prompt = self.tokens(index).to(tokens.dtype).expand(tokens.shape[0], -1, -1)
            return torch.cat([tokens[:, :prefix], prompt, rest], dim=1)

        return place

    def _without_prompts(self, tokens: Tensor) -> Tensor:
        prefix = self.encoder.sites[0].prefix
        return torch.cat([tokens[:, :prefix], tokens[:, prefix + self.settings.length :]], dim=1)
