"""Partial fine-tuning: the last blocks are trained (``partial-k`` of Jia et al., ECCV 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from medept.encoders.encoder import Encoder
from medept.methods.base import MethodSettings
from medept.methods.own_parameters import OwnParameters


class Partial(OwnParameters):
    """Trains the last k blocks; the final norm after them stays frozen.

    Jia et al. say "the last k layers", and their code trains the final norm too; Zu et al. say
    "last block and head", which is what this does. AdamW at 5e-4, one of the rates of Jia et al.
    """

    class Settings(MethodSettings):
        """How much of the encoder is trained."""

        k: int = Field(default=1, ge=1)
        """How many of the last blocks are trained."""

    name = "partial"
    summary = "the last k blocks"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 5e-4}
    settings: Settings

    @classmethod
    def own(cls, encoder: Encoder, settings: Any) -> list[nn.Parameter]:
        return [p for block in encoder.blocks[-settings.k :] for p in block.parameters()]

    def first_changed_block(self) -> int:
        return max(0, len(self.encoder.blocks) - self.settings.k)
