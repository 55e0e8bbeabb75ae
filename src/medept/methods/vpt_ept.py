"""Prompts beside the tokens and inside the softmax: VPT's and EPT's at once.

Attention sinks serve a null update, which EPT's gates give, and a broadcast, which tokens of VPT's
kind give; Fesser et al. (arXiv 2606.08105) find the two complementary in vision transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from medept.ept.attach import Handle, attach
from medept.ept.config import EmbeddedPromptConfig
from medept.methods.vpt import VisualPromptTuning

TOKEN_SCALE = 30
"""How many times faster embedded prompts learn than tokens, for which AdamW's rate is 1e-3."""


class TokensAndEmbeddedPrompts(VisualPromptTuning):
    """Trains ``length`` tokens of width D and a gate's logit for every token, those among them, in
    each chosen block, and the head.

    Both learn at ``encoder_lr``: the tokens are kept multiplied by 30, so that a step of AdamW
    moves them a thirtieth as far as the logits (one of SGD, which does not rescale gradients, a
    nine-hundredth). The logits start where ``ept``'s do.
    """

    class Settings(VisualPromptTuning.Settings):
        """Where both are, and how many tokens."""

        length: int = Field(default=5, ge=1, le=10)
        """Prompt tokens per block."""

    name = "vpt-ept"
    summary = "learnable tokens beside the image's, and prompts inside the softmax"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 3e-2}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"length": (1, 2, 5, 10)}
    settings: Settings
    handle: Handle

    def insert(self) -> None:
        super().insert()
        for prompt in self.prompts:
            prompt.data *= TOKEN_SCALE
        config = EmbeddedPromptConfig(
            layers=self.settings.layers, frozen=self.settings.frozen, collapsed=True
        )
        size = self.encoder.preprocessing.size
        with self.encoder.autocast():
            self.handle = attach(self.encoder.model, config, image_size=size)
        self._hooks.callback(self.handle.detach)

    def tokens(self, index: int) -> Tensor:
        return super().tokens(index) / TOKEN_SCALE

    def inserted_state(self) -> dict[str, Tensor]:
        return super().inserted_state() | self.handle.state_dict()
