"""Methods that train some of the encoder's own parameters: all, the last blocks, biases, norms."""

from __future__ import annotations

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
    """Full fine-tuning: every parameter."""

    name = "full"
    summary = "every parameter of the encoder"

    def chosen(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


class Partial(OwnParameters):
    """The last k blocks; the final norm stays frozen (VPT's ``partial-k``, Jia et al. 2022)."""

    class Settings(MethodSettings):
        """k: how many of the last blocks are trained."""

        k: int = Field(default=1, ge=1)

    name = "partial"
    summary = "the last k blocks"
    settings: Settings

    def chosen(self) -> list[nn.Parameter]:
        return [p for block in self.encoder.blocks[-self.settings.k :] for p in block.parameters()]


class Bias(OwnParameters):
    """Every bias (BitFit, Ben Zaken et al. 2022)."""

    name = "bias"
    summary = "every bias of the encoder"

    def chosen(self) -> list[nn.Parameter]:
        return [
            p for n, p in self.encoder.named_parameters() if n.rpartition(".")[2].endswith("bias")
        ]


class NormTuning(OwnParameters):
    """Weights and biases of every layer norm (Qi et al. 2022; De Min et al. 2023 for ViTs)."""

    name = "norm"
    summary = "weights and biases of every layer norm"

    def chosen(self) -> list[nn.Parameter]:
        norms = [m for m in self.encoder.modules() if isinstance(m, nn.LayerNorm)]
        return [p for norm in norms for p in norm.parameters()]
