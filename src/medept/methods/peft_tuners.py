"""Shared by the methods that are tuners of Hugging Face peft.

peft tunes whole linear layers. An encoder may compute query, key and value in one fused layer; it
is then replaced by three layers that share its weights, for as long as the method is in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medept.encoders.layers import split_projections
from medept.errors import EncoderError, ResourceError
from medept.methods.base import AdaptedEncoder


class PeftTuner(AdaptedEncoder):
    """A tuner of peft on the encoder's model."""

    def targets(self) -> list[str]:
        """Names of the layers that are tuned."""
        raise NotImplementedError

    def config(self, targets: list[str]) -> Any:
        """peft's configuration for these layers."""
        raise NotImplementedError

    def insert(self) -> None:
        try:
            from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        except ImportError as error:
            raise ResourceError(
                f"the method {self.name!r} needs an extra: pip install 'medept[peft]'"
            ) from error
        split_projections(self.encoder, self.on_remove)
        names = self.targets()
        if not names:
            raise EncoderError(
                f"the method {self.name!r} tunes layers that {self.encoder.name!r} does not have"
            )
        config = self.config(names)
        layers = [self.encoder.model.get_submodule(name) for name in names]
        with _in_float32(layers), warnings.catch_warnings():
            # peft does not know timm's LayerNorm by its type, but copies it all the same
            warnings.filterwarnings("ignore", "Unsupported layer type")
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
                self.encoder.model, config, "default"
            )
        self.on_remove.callback(tuner.unload)


@contextmanager
def _in_float32(layers: list[nn.Module]) -> Iterator[None]:
    """While it is open, layers that are held in bfloat16 are in float32.

    peft makes its own parameters in the dtype of the layer's, and DoRA computes magnitudes in it.
    """
    held = [
        (p, p.data) for layer in layers for p in layer.parameters() if p.dtype == torch.bfloat16
    ]
    for parameter, values in held:
        parameter.data = values.float()
    try:
        yield
    finally:
        for parameter, values in held:
            parameter.data = values
