"""Shared by the methods fitted to frozen features: probe, nearest neighbours, prototypes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medept.errors import EncoderError
from medept.methods.base import AdaptedEncoder


class FeatureMethod(AdaptedEncoder):
    """A method that is fitted to features at once, in a few views of each support image."""

    rates: ClassVar[tuple[str, ...]] = ()
    alters_features = False

    def fit_views(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        """Fit the head to V views of each image, every view a sample of its own.

        Args:
            features: (n, V, D).
            targets: (n,) class indices, or (n, C) of 0 and 1.
            groups: (n,) ids that cross-validation keeps together; None: each image is its own.
        """
        count, views, width = features.shape
        groups = np.arange(count) if groups is None else groups
        rows = np.repeat(np.arange(count), views)
        self.fit_features(features.reshape(-1, width), targets[rows], groups[rows])

    def fit_features(
        self, features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        """Fit the head.

        Args:
            features: (n, D).
            targets: (n,) class indices, or (n, C) of 0 and 1.
            groups: (n,) ids of what cross-validation keeps together, such as a patient's images;
                None: each image by itself.
        """
        raise NotImplementedError


def is_multilabel(targets: np.ndarray) -> bool:
    """Whether targets are labels (n, C) of 0 and 1, and not class indices (n,)."""
    return targets.ndim == 2


def as_labels(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets as labels (n, C) of 0 and 1.

    >>> as_labels(np.array([2, 0]), classes=3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    return targets if is_multilabel(targets) else np.eye(classes)[targets]


class StoredHead(nn.Module):
    """A :class:`~medept.methods.heads.Head` of tensors that are stored, not trained."""

    names: tuple[str, ...] = ()
    """The names of the tensors. One more, ``multilabel``, says whether labels may coincide."""

    labels_may_coincide: bool = False
    """What ``multilabel`` says: an exported graph cannot branch on a tensor."""

    def __init__(self) -> None:
        super().__init__()
        for name in (*self.names, "multilabel"):
            self.register_buffer(name, torch.zeros(0))

    def standardise(self, features: Tensor) -> None:
        """Do nothing: without training there is no learning rate to suit."""

    def folded(self) -> dict[str, Tensor]:
        """The tensors."""
        return dict(self.named_buffers())

    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Take the tensors, which have as many rows as their support set.

        Raises:
            InputError: if they have other names.
        """
        own = dict(self.named_buffers())
        if state.keys() != own.keys():
            raise EncoderError(f"the saved head holds {list(state)}, not {list(own)}")
        for name, tensor in state.items():
            setattr(self, name, tensor.to(own[name].device))
        self.labels_may_coincide = bool(state["multilabel"])
