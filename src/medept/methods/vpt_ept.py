"""VPT's and EPT's prompts at once: beside the tokens, and inside the softmax.

An attention sink does two things: it lets a token skip an update, as EPT's gates do, and it
broadcasts information, as VPT's tokens do. Fesser et al. (arXiv 2606.08105) find the two
complementary in vision transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from medept.ept.attach import Handle, attach
from medept.ept.config import EmbeddedPromptConfig
from medept.methods.vpt import VisualPromptTuning

TOKEN_SCALE = 30
"""How many times faster embedded prompts learn than tokens, whose rate with AdamW is 1e-3."""


class TokensAndEmbeddedPrompts(VisualPromptTuning):
    """Trains ``length`` tokens of width D and a gate logit for every token, in each chosen block.

    The new tokens have gates too. Tokens and logits learn at ``encoder_lr``. The tokens are stored
    multiplied by 30, so that a step of AdamW moves them a thirtieth as far as the logits (a step of
    SGD, which does not rescale gradients, a nine-hundredth). The logits start as in ``ept``.
    """

    class Settings(VisualPromptTuning.Settings):
        """Where both are, and how many tokens there are."""

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
        self.on_remove.callback(self.handle.detach)

    def tokens(self, index: int) -> Tensor:
        return super().tokens(index) / TOKEN_SCALE

    def inserted_state(self) -> dict[str, Tensor]:
        return super().inserted_state() | self.handle.state_dict()
