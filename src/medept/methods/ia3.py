"""IA3 (Liu et al., NeurIPS 2022), by Hugging Face peft."""

from __future__ import annotations

from typing import Any, ClassVar

from medept.encoders.layers import last_mlp_layers, projections
from medept.encoders.patching import KEY, VALUE
from medept.methods.peft_tuners import PeftTuner


class IA3(PeftTuner):
    """Learnt scales of keys, values and the MLP's hidden activations, which start at one.

    Trains D + D + (hidden width) numbers per block, at the paper's 3e-3, but by AdamW in place of
    its Adafactor.
    """

    name = "ia3"
    summary = "learnt scales of keys, values and MLP activations"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 3e-3}

    def targets(self) -> list[str]:
        return projections(self.encoder, KEY, VALUE) + last_mlp_layers(self.encoder)

    def config(self, targets: list[str]) -> Any:
        from peft import IA3Config

        inside = last_mlp_layers(self.encoder)
        return IA3Config(target_modules=targets, feedforward_modules=inside)
