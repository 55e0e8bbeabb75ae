"""Shared by the methods fitted on frozen features: probe, nearest neighbours, prototypes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medept.errors import EncoderError
from medept.methods.base import AdaptedEncoder


class FeatureMethod(AdaptedEncoder):
    """A method that is fitted to features at once, on one view of each support image."""

    rates: ClassVar[tuple[str, ...]] = ()

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        """Fit the head.

        Args:
            features: (n, D).
            targets: (n,) class indices, or (n, C) of 0 and 1.
            groups: (n,) ids that cross-validation keeps together.
        """
        raise NotImplementedError


class StoredHead(nn.Module):
    """A head made of tensors that are stored, not trained; its interface is that of ``Head``."""

    names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in (*self.names, "multilabel"):
            self.register_buffer(name, torch.zeros(0))

    def folded(self) -> dict[str, Tensor]:
        """The tensors."""
        return dict(self.named_buffers())

    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Take the tensors, whose number of rows is that of the support set."""
        own = dict(self.named_buffers())
        if state.keys() != own.keys():
            raise EncoderError(f"the saved head holds {list(state)}, not {list(own)}")
        for name, tensor in state.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
