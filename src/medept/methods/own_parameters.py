"""Shared by methods that train some of the encoder's own parameters."""

from __future__ import annotations

from torch import nn

from medept.methods.base import AdaptedEncoder


class OwnParameters(AdaptedEncoder):
    """Trains copies of some of the encoder's own parameters, in their place."""

    def chosen(self) -> list[nn.Parameter]:
        """The encoder's parameters that are trained."""
        raise NotImplementedError

    def insert(self) -> None:
        self._before = [(parameter, parameter.data) for parameter in self.chosen()]
        for parameter, value in self._before:
            parameter.data = value.clone()
            parameter.requires_grad_(True)

    def remove(self) -> None:
        for parameter, value in self._before:
            parameter.requires_grad_(False)
            parameter.data = value.to(parameter.device)
