"""Shared by methods that train some of the encoder's own parameters."""

from __future__ import annotations

from medept.methods.base import AdaptedEncoder


class OwnParameters(AdaptedEncoder):
    """Trains copies of some of the encoder's own parameters, in their place."""

    def insert(self) -> None:
        chosen = self.own(self.encoder, self.settings)
        self._before = [(parameter, parameter.data) for parameter in chosen]
        for parameter, value in self._before:
            parameter.data = value.clone()
            parameter.requires_grad_(True)

    def remove(self) -> None:
        for parameter, value in self._before:
            parameter.requires_grad_(False)
            parameter.data = value.to(parameter.device)
