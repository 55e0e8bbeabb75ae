"""Embedded Prompt Tuning (Zu et al., Medical Image Analysis 97, 2024, 103258).

Prompts inside the softmax of the frozen attention, and a linear head. The prompt's mathematics
is in :mod:`medept.prompts`; here it becomes a method like the others. The adapter keeps prompts
of the way ``concat`` merged: one number per token and layer, whatever their length.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from medept.attachment import Handle, attach
from medept.methods.base import AdaptedEncoder, MethodSettings
from medept.prompts import EmbeddedPrompt, EmbeddedPromptConfig


class EmbeddedPromptTuning(AdaptedEncoder):
    """Trains T * L numbers in each prompted layer, and the head.

    Zu et al. start prompts near 0, so that every layer begins scaled down by T / (T + L), and train
    them by SGD at 6e-4 (``--recipe paper``), which hardly moves them: most of what changes is that
    start, for better or worse. By default prompts start where the encoder is what it was, and
    AdamW moves them in earnest, after the head has been trained.
    """

    class Settings(EmbeddedPromptConfig, MethodSettings):
        """The prompts: see :class:`medept.prompts.EmbeddedPromptConfig`."""

    name = "ept"
    summary = "learnable prompts inside the softmax of every attention"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-1}
    paper: ClassVar[dict[str, Any]] = {"init": "normal"}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {
        "length": ("auto", 5, 20, 100, 400),
        "init": ("auto", "normal"),
        "collapsed": (False, True),
        "per_head": (False, True),
    }
    settings: Settings
    handle: Handle

    def insert(self) -> None:
        _ = self.encoder.sites  # found, and kept, before they are diverted
        self.handle = attach(
            self.encoder.model, self.settings, image_size=self.encoder.preprocessing.size
        )

    def remove(self) -> None:
        self.handle.detach()

    def first_changed_block(self) -> int:
        return min(self.handle.prompts)

    def first_changed_prompt(self) -> EmbeddedPrompt | None:
        first = self.handle.prompts[self.first_changed_block()]
        return first if first.way == "concat" else None

    def inserted_state(self) -> dict[str, Tensor]:
        merged = self.settings.way == "concat"
        return {
            f"prompt.layer.{i}": prompt.merged() if merged else prompt.prompt.detach()
            for i, prompt in self.handle.prompts.items()
        }

    def load_inserted_state(self, state: dict[str, Tensor]) -> None:
        self.handle.load_state_dict({k.removeprefix("prompt."): v for k, v in state.items()})
