"""AdaptFormer (Chen et al., NeurIPS 2022), ``adapter`` of the comparison of Zu et al."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder, MethodSettings


class Bottleneck(nn.Module):
    """scale * up(relu(down(x))): D -> D / reduction -> D; zero at the start, since up is zero."""

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Linear(width, hidden), nn.Linear(hidden, width), scale
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x))) * self.scale


class AdaptFormer(AdaptedEncoder):
    """Trains 2 D h + h + D numbers a block, h = D / reduction, in parallel to the frozen MLP.

    The bottleneck reads what the MLP reads, after the norm, as in their equation 3 (their code
    reads what stands before it), has no dropout (their code: 0.1), and starts as their code does
    (Kaiming uniform down, zero up). Their SGD, without weight decay, at 0.05 for a batch of 256
    (for videos they take 0.1), scaled to batches of 16, after a fifth of the steps to warm up.
    """

    class Settings(MethodSettings):
        """Its bottlenecks."""

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
        self._hooks = ExitStack()
        self.bottlenecks = nn.ModuleList()
        for mlp in self.encoder.mlps:
            width = next(m.in_features for m in mlp.modules() if isinstance(m, nn.Linear))
            hidden = max(1, width // self.settings.reduction)
            bottleneck = Bottleneck(width, hidden, self.settings.scale)
            self.bottlenecks.append(bottleneck)
            self._hooks.callback(mlp.register_forward_hook(_beside(bottleneck)).remove)

    def remove(self) -> None:
        self._hooks.close()


def _beside(bottleneck: Bottleneck) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + bottleneck(arguments[0])

    return hook
