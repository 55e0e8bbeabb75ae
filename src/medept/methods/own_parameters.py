"""Shared by the methods that train some of the encoder's own parameters."""

from __future__ import annotations

from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder


class OwnParameters(AdaptedEncoder):
    """Trains copies of the encoder's parameters that ``own`` names, in their place."""

    def insert(self) -> None:
        for parameter in self.own(self.encoder, self.settings):
            self.on_remove.callback(_restore, parameter, parameter.data)
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)


def _restore(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.requires_grad_(False)
    parameter.data = value.to(parameter.device)
