"""LoRA (Hu et al., ICLR 2022), by Hugging Face peft."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from medept.encoders.layers import projections
from medept.encoders.patching import QUERY, VALUE
from medept.methods.base import MethodSettings
from medept.methods.peft_tuners import PeftTuner


class LoRA(PeftTuner):
    """Low-rank updates of Wq and Wv, which start at zero.

    Trains 2 r D numbers for each of the two. The settings are the paper's for RoBERTa-base: query
    and value only, AdamW, 5e-4 after warming up for 6 % of the steps, rank 8 and alpha = rank (its
    rate then falls linearly; here as the recipe says). The paper keeps alpha at the first rank
    that it tries, which makes the scale alpha / r one. It starts the lower matrix from a Gaussian;
    its code, and peft, from Kaiming's uniform distribution, which is the default here.
    """

    class Settings(MethodSettings):
        """Rank, scale and start of the updates."""

        rank: int = Field(default=8, ge=1, le=4096)
        """Rank r of an update."""

        alpha: float | None = Field(default=None, gt=0)
        """Updates are scaled by alpha / r; None: alpha is r."""

        init: Literal["kaiming", "gaussian"] = "kaiming"
        """Initial values of the lower matrix: ``kaiming`` (uniform), or ``gaussian``."""

    name = "lora"
    summary = "low-rank updates of query and value projections"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 5e-4, "warmup": 0.06}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (1, 4, 8, 32, 64)}
    settings: Settings
    decomposed: ClassVar[bool] = False
    """Whether the update is DoRA's."""

    def targets(self) -> list[str]:
        return projections(self.encoder, QUERY, VALUE)

    def config(self, targets: list[str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha or self.settings.rank,
            target_modules=targets,
            init_lora_weights="gaussian" if self.settings.init == "gaussian" else True,
            use_dora=self.decomposed,
        )
