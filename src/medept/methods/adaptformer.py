"""AdaptFormer (Chen et al., NeurIPS 2022); ``adapter`` in the comparison of Zu et al."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder, MethodSettings


class Bottleneck(nn.Module):
    """scale * up(relu(down(x))), D -> D / reduction -> D. It starts at zero, because up does."""

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(width, hidden), nn.Linear(hidden, width), scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x))) * self.scale


class AdaptFormer(AdaptedEncoder):
    """A bottleneck in parallel to each frozen MLP.

    Trains 2 D h + h + D numbers per block, with h = D / reduction. As in the paper's equation 3 the
    bottleneck reads what the MLP reads, after the norm (the authors' code: before it). It has no
    dropout (their code: 0.1), and starts as in their code: Kaiming uniform down, zero up. The
    optimiser is theirs, SGD without weight decay, at their rate for images, 0.05 for a batch of
    256, scaled to batches of 16; it warms up over a fifth of the steps.
    """

    class Settings(MethodSettings):
        """Width and scale of the bottlenecks."""

        reduction: int = Field(default=4, ge=1)
        """Token width divided by the bottleneck's width, D / h; Zu et al. compare 1 to 64."""

        scale: float = Field(default=0.1, gt=0)
        """Factor on the bottleneck's output; 0.1 in the paper."""

    name = "adapter"
    summary = "a bottleneck in parallel to each MLP"
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 0.05 / 16,
        "encoder_lr": 0.05 / 16,
        "weight_decay": 0,
        "warmup": 0.2,
    }
    search: ClassVar[dict[str, tuple[Any, ...]]] = {"reduction": (1, 4, 8, 32, 64)}
    settings: Settings

    def insert(self) -> None:
        self.bottlenecks = nn.ModuleList()
        for mlp in self.encoder.mlps:
            width = next(m.in_features for m in mlp.modules() if isinstance(m, nn.Linear))
            hidden = max(1, width // self.settings.reduction)
            bottleneck = Bottleneck(width, hidden, self.settings.scale)
            self.bottlenecks.append(bottleneck)
            self.on_remove.callback(mlp.register_forward_hook(_add(bottleneck)).remove)


def _add(bottleneck: Bottleneck) -> Callable[..., Tensor]:
    """A forward hook that adds what the bottleneck makes of a module's input to its output."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + bottleneck(arguments[0])

    return hook
