"""DoRA (Liu et al., ICML 2024), by Hugging Face peft."""

from __future__ import annotations

from typing import Any, ClassVar

from medept.methods.lora import LoRA


class DoRA(LoRA):
    """Weight-decomposed LoRA: low-rank updates of a weight's direction, and a learnt magnitude.

    Trains 2 r D + D numbers for each of Wq and Wv. The paper tunes more layers; these are LoRA's,
    so that the two can be compared. AdamW at 2e-4, the paper's rate for LLaMA-7B.
    """

    name = "dora"
    summary = "low-rank updates of direction, and magnitudes"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 2e-4}
    decomposed = True
