"""Methods that train some of the encoder's own parameters: all, the last blocks, or biases."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from medept.methods.base import AdaptedEncoder, MethodSettings


class OwnParameters(AdaptedEncoder):
    """Trains a choice of the encoder's own parameters, and gives them back afterwards."""

    def chosen(self) -> list[nn.Parameter]:
        """The encoder's parameters that are trained."""
        raise NotImplementedError

    def insert(self) -> None:
        self._before = [(p, p.detach().clone()) for p in self.chosen()]
        for parameter, _ in self._before:
            parameter.requires_grad_(True)

    @torch.no_grad()
    def remove(self) -> None:
        for parameter, value in self._before:
            parameter.requires_grad_(False)
            parameter.copy_(value)


class Full(OwnParameters):
    """Full fine-tuning: every parameter; AdamW, 1e-5 (1e-4 did worse from five images a class)."""

    name = "full"
    summary = "every parameter of the encoder"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-5}

    def chosen(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


class Partial(OwnParameters):
    """The last k blocks; the final norm stays frozen (VPT's ``partial-k``, Jia et al. 2022).

    AdamW, 5e-4, of the values that they tried.
    """

    class Settings(MethodSettings):
        """k: how many of the last blocks are trained."""

        k: int = Field(default=1, ge=1)

    name = "partial"
    summary = "the last k blocks"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 5e-4}
    settings: Settings

    def chosen(self) -> list[nn.Parameter]:
        return [p for block in self.encoder.blocks[-self.settings.k :] for p in block.parameters()]

    def first_changed_block(self) -> int:
        return max(0, len(self.encoder.blocks) - self.settings.k)


class Bias(OwnParameters):
    """Every bias (BitFit, Ben Zaken et al. 2022); AdamW, 1e-3, the largest of theirs."""

    name = "bias"
    summary = "every bias of the encoder"
    recipe: ClassVar[dict[str, Any]] = {"encoder_lr": 1e-3}

    def chosen(self) -> list[nn.Parameter]:
        return [
            p for n, p in self.encoder.named_parameters() if n.rpartition(".")[2].endswith("bias")
        ]
