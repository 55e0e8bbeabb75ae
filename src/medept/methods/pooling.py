"""Pooling: the features of a case from those of its images.

``mean`` and ``max`` know nothing of the task, and take the mean or the largest value of each
feature. ``attention`` learns which images matter (:mod:`medept.methods.attention_pooling`). A case
of one image has the features of that image, whatever the pooling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medept.errors import EncoderError

POOLS: dict[str, type[Pool]] = {}
"""Every pooling by its name."""


class Pool(nn.Module):
    """Features of images to features of their case.

    Attributes:
        name: what users call it. A class with a name of its own is registered by it.
        learns: whether it is fitted to cases with labels.
        by_view: whether views of the images are pooled one by one, and the mean is taken last; for
            others that comes to the same.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = False
    by_view: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        POOLS[cls.name] = cls

    def pool(self, parts: Iterable[Tensor]) -> Tensor:
        """Features (V, D) of a case.

        Args:
            parts: features (b, V, D) of V views of its images, some images at a time.
        """
        raise NotImplementedError

    def pool_batch(self, features: Tensor, real: Tensor) -> Tensor:
        """Features (B, D) of B cases, with gradients.

        Args:
            features: (B, K, D) of at most K images of each.
            real: (B, K) of 0 and 1: where there is an image. Each case has one at least.
        """
        raise NotImplementedError

    def weights(self, features: Tensor) -> Tensor:
        """(n,) how much each image of a case decides of its features; they add up to 1.

        Args:
            features: (n, D) of its images, means over views.
        """
        raise NotImplementedError

    def fit(self, features: np.ndarray, sizes: np.ndarray, targets: np.ndarray, seed: int) -> None:
        """Learn from cases with labels; by default there is nothing to learn.

        Args:
            features: (N, D) of the images of all cases, one case after the other.
            sizes: (n,) the number of images of each case.
            targets: (n,) class indices, or (n, C) of 0 and 1.
            seed: determines initial values.
        """

    def trained_state(self) -> dict[str, Tensor]:
        """What an adapter file keeps of it."""
        return dict(self.named_buffers())

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put a saved :meth:`trained_state` back.

        Raises:
            InputError: if it is another pooling's.
        """
        own = dict(self.named_buffers())
        if state.keys() != own.keys():
            raise EncoderError(
                f"the saved pooling holds {list(state)}, and {self.name!r} {list(own)}"
            )
        for name, tensor in state.items():
            setattr(self, name, tensor.to(own[name].device))


class MeanPool(Pool):
    """The mean of the images' features."""

    name = "mean"

    def pool(self, parts: Iterable[Tensor]) -> Tensor:
        total, count = torch.zeros(()), 0
        for part in parts:
            total = part.sum(dim=0) if count == 0 else total + part.sum(dim=0)
            count += len(part)
        return total / count

    def pool_batch(self, features: Tensor, real: Tensor) -> Tensor:
        return (features * real[..., None]).sum(dim=1) / real.sum(dim=1)[:, None]

    def weights(self, features: Tensor) -> Tensor:
        return torch.full((len(features),), 1 / len(features))


class MaxPool(Pool):
    """The largest value of each feature."""

    name = "max"
    by_view = True

    def pool(self, parts: Iterable[Tensor]) -> Tensor:
        return torch.stack([part.amax(dim=0) for part in parts]).amax(dim=0)

    def pool_batch(self, features: Tensor, real: Tensor) -> Tensor:
        return features.masked_fill(~real.bool()[..., None], -torch.inf).amax(dim=1)

    def weights(self, features: Tensor) -> Tensor:
        """The share of features in which an image is the largest."""
        counts = torch.bincount(features.argmax(dim=0), minlength=len(features))
        return counts / features.shape[1]


def pool_cases(pool: Pool, features: np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Features (n, V, D) of n cases, from those (N, V, D) of V views of all their images.

    >>> pool_cases(MaxPool(), np.array([[[1.0]], [[3.0]], [[2.0]]]), [2, 1]).tolist()
    [[[3.0]], [[2.0]]]
    """
    parts = torch.as_tensor(features).split([int(size) for size in sizes])
    return torch.stack([pool.pool([part]) for part in parts]).numpy()
