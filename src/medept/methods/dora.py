"""DoRA (Liu et al., ICML 2024), by Hugging Face peft."""

from __future__ import annotations

from typing import Any, ClassVar

from medept.methods.lora import LoRA


class DoRA(LoRA):
    """Weight-decomposed LoRA: direction by LoRA, magnitude by a vector.

    Trains 2 r D + D numbers for each of Wq and Wv, as LoRA does, so that both can be compared;
    theirs are of more layers. AdamW, 2e-4, theirs for LLaMA-7B.
    """

    name = "dora"
    summary = "low-rank updates of direction, and magnitudes"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 2e-4}
    decomposed = True
