"""A deeper head: k linear layers with ReLU between them, on frozen features."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from medept.encoders import Encoder
from medept.methods.base import AdaptedEncoder, MethodSettings


class MLP(AdaptedEncoder):
    """Trains k - 1 layers of D x D and the head: mlp-3 of the paper's comparison."""

    class Settings(MethodSettings):
        """k: how many linear layers, the head included."""

        k: int = Field(default=3, ge=1)

    name = "mlp"
    summary = "k linear layers on frozen features"
    settings: Settings

    def __init__(self, encoder: Encoder, classes: int, settings: MethodSettings) -> None:
        super().__init__(encoder, classes, settings)
        width = encoder.width
        layers = [part for _ in range(self.settings.k - 1)
                  for part in (nn.Linear(width, width), nn.ReLU())]  # fmt: skip
        self.hidden = nn.Sequential(*layers)

    def logits(self, features: Tensor) -> Tensor:
        return super().logits(self.hidden(features))
