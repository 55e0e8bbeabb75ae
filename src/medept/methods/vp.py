"""``vp`` in the comparison of Zu et al.: prompts that are added to the tokens of every block."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from medept.methods.token_prompts import TokenPrompts


class AddedPrompts(TokenPrompts):
    """Trains T x D numbers for each chosen block, which are added to the tokens that go into it.

    Zu et al. say only that prompts are added to the tokens of all layers. This is the deep variant
    of the prompt location "add" of Jia et al. (ECCV 2022): prompts have one row per token,
    including prefix tokens. It learns as ``vpt`` does.
    """

    name = "vp"
    summary = "learnable offsets added to the tokens of every block"

    def prompt_length(self, layer: int) -> int:
        return self.encoder.sites[layer].tokens

    def insert(self) -> None:
        super().insert()
        for layer, prompt in zip(self.layers, self.prompts, strict=True):
            self.before(self.encoder.blocks[layer], partial(_add, prompt))


def _add(prompt: Tensor, tokens: Tensor) -> Tensor:
    return tokens + prompt.to(tokens.dtype)
