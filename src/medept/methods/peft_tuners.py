"""Shared by methods that are tuners of Hugging Face peft.

peft works on whole linear layers. Where an encoder computes query, key and value in one fused
layer, that layer is replaced by three that share its weights while the method is in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from medept.encoders.layers import split_projections
from medept.errors import ResourceError
from medept.methods.base import AdaptedEncoder


class PeftTuner(AdaptedEncoder):
    """A tuner of peft's on the encoder's model."""

    def targets(self) -> list[str]:
        """Names of the layers that are tuned."""
        raise NotImplementedError

    def config(self, targets: list[str]) -> Any:
        """peft's configuration for the named layers."""
        raise NotImplementedError

    def insert(self) -> None:
        try:
            from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        except ImportError as error:
            raise ResourceError(
                f"the method {self.name!r} needs an extra: pip install 'medept[peft]'"
            ) from error
        self._undo = ExitStack()
        split_projections(self.encoder, self._undo)
        names = self.targets()
        if not names:
            self._undo.close()
            raise ResourceError(
                f"the method {self.name!r} tunes layers that {self.encoder.name!r} does not have"
            )
        config = self.config(names)
        layers = [self.encoder.model.get_submodule(name) for name in names]
        with _in_float32(layers), warnings.catch_warnings():
            # it has not met timm's LayerNorm, which it copies
            warnings.filterwarnings("ignore", "Unsupported layer type")
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
                self.encoder.model, config, "default"
            )
        self._undo.callback(tuner.unload)

    def remove(self) -> None:
        self._undo.close()


@contextmanager
def _in_float32(layers: list[nn.Module]) -> Iterator[None]:
    """While it is open they are, though held in bfloat16.

    Of the type of a layer's weights peft draws what it puts beside them, and DoRA computes its
    magnitudes.
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
