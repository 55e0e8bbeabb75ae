"""Shared by methods that train some of the encoder's own parameters."""

from __future__ import annotations

import torch
from torch import nn

from medept.methods.base import AdaptedEncoder


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
