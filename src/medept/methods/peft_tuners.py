"""Shared by methods that are tuners of Hugging Face peft.

peft works on whole linear layers. Where an encoder computes query, key and value in one fused
layer, that layer is replaced by three that share its weights while the method is in place.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

from medept.block_parts import split_projections
from medept.errors import InputError
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
            raise InputError(
                f"the method {self.name!r} needs an extra: pip install 'medept[peft]'"
            ) from error
        self._undo = ExitStack()
        split_projections(self.encoder, self._undo)
        names = self.targets()
        if not names:
            self._undo.close()
            raise InputError(
                f"the method {self.name!r} tunes layers that {self.encoder.name!r} does not have"
            )
        config = self.config(names)
        with warnings.catch_warnings():  # that it has not met timm's LayerNorm, which it copies
            warnings.filterwarnings("ignore", "Unsupported layer type")
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](
                self.encoder.model, config, "default"
            )
        self._undo.callback(tuner.unload)

    def remove(self) -> None:
        self._undo.close()
