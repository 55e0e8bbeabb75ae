"""Tuning of layer norms (Zhao et al., ICLR 2024), by Hugging Face peft."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from medept.encoders.layers import norms
from medept.methods.peft_tuners import PeftTuner


class NormTuning(PeftTuner):
    """Trains weight and bias of every layer norm, including the final one: 2 D numbers each.

    The paper tunes the norms inside the blocks of language models, at rates made for them; here the
    norm of the features belongs to the encoder too. AdamW at 1e-3, as for ``bias``.
    """

    name = "norm"
    summary = "weights and biases of every layer norm"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}

    def targets(self) -> list[str]:
        return norms(self.encoder)

    def config(self, targets: list[str]) -> Any:
        from peft import LNTuningConfig

        return LNTuningConfig(target_modules="|".join(map(re.escape, targets)))
