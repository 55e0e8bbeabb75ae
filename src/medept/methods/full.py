"""Full fine-tuning: the whole encoder is trained."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from medept.encoders.encoder import Encoder
from medept.methods.own_parameters import OwnParameters


class Full(OwnParameters):
    """Trains every parameter. AdamW at 1e-5; 1e-4 did worse from five images per class."""

    name = "full"
    summary = "every parameter of the encoder"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-5}

    @classmethod
    def own(cls, encoder: Encoder, settings: Any) -> list[nn.Parameter]:
        return list(encoder.parameters())
