"""Embedded Prompt Tuning (Zu et al., Medical Image Analysis 97, 2024, 103258).

:mod:`medept.ept` as a method like the others. The adapter file keeps prompts of the way ``concat``
merged: one number per token and layer, whatever their length. Of the way ``keys`` it keeps the
keys, L numbers per channel and layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from medept.ept.attach import Handle, attach_at
from medept.ept.config import EmbeddedPromptConfig
from medept.ept.prompts import EmbeddedPrompt
from medept.methods.base import AdaptedEncoder, MethodSettings


class EmbeddedPromptTuning(AdaptedEncoder):
    """Learnable prompts inside the softmax of the frozen attention.

    Trains T * L numbers in each prompted layer, with the way ``keys`` D * L.

    Prompts that start near 0 scale every layer's attention by T / (T + L) before anything is
    learnt. With the paper's L = 100 on 197 tokens, that start is most of what changes: its SGD at
    6e-4 (``--recipe paper``) moves prompts by some 1e-5. How good such a start is depends on the
    encoder. The default is therefore mild, 10 / 11, and AdamW at 3e-2 moves prompts from there in
    earnest, once the head has been trained.
    """

    class Settings(EmbeddedPromptConfig, MethodSettings):
        """Those of :class:`medept.ept.config.EmbeddedPromptConfig`."""

    name = "ept"
    summary = "learnable prompts inside the softmax of every attention"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 3e-2}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {
        "length": ("auto", 5, 20, 100, 400),
        "init": ("normal", "identity"),
        "collapsed": (False, True),
        "per_head": (False, True),
    }
    settings: Settings
    handle: Handle

    def insert(self) -> None:
        with self.encoder.autocast():
            self.handle = attach_at(self.encoder.model, self.encoder.sites, self.settings)
        self.on_remove.callback(self.handle.detach)

    def first_changed_block(self) -> int:
        return min(self.handle.prompts)

    def first_changed_prompt(self) -> EmbeddedPrompt | None:
        first = self.handle.prompts[self.first_changed_block()]
        return first if first.way == "concat" else None

    def inserted_state(self) -> dict[str, Tensor]:
        return {
            f"prompt.layer.{i}": prompt.merged() if prompt.has_gates else prompt.prompt.detach()
            for i, prompt in self.handle.prompts.items()
        }

    def load_inserted_state(self, state: dict[str, Tensor]) -> None:
        self.handle.load_state_dict({k.removeprefix("prompt."): v for k, v in state.items()})
