"""Heads: what turns an encoder's features into logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from medept.errors import EncoderError


class Head(Protocol):
    """What every head can do: any module with these methods is one."""

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, C)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained, or may be."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """What is kept but not trained."""
        ...

    def standardise(self, features: Tensor) -> None:
        """Take the statistics of features (n, D) before training."""
        ...

    def folded(self) -> dict[str, Tensor]:
        """The tensors to save."""
        ...

    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Become the head that :meth:`folded` saved.

        Raises:
            InputError: if the tensors do not fit.
        """
        ...


class LinearHead(nn.Linear):
    """One linear layer. Weights start from a normal distribution of deviation 0.01, biases at 0.

    It standardises features by statistics that are fixed before training, so that one learning rate
    serves encoders whose features differ in scale. Saved, they are folded into weight and bias:

    >>> head, features = LinearHead(4, 3), 5 + torch.randn(20, 4)
    >>> head.standardise(features)
    >>> plain = torch.nn.Linear(4, 3)
    >>> plain.load_state_dict(head.folded())
    <All keys matched successfully>
    >>> torch.allclose(plain(features), head(features), atol=1e-5)
    True

    Args:
        width: the number D of features.
        classes: the number C of classes or labels.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Take the mean and standard deviation of features (n, D)."""
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0, correction=0) + 1e-3)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward((features - self.mean) / self.scale)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """``weight`` and ``bias`` of the plain linear layer that does the same."""
        weight = self.weight / self.scale
        return {"weight": weight, "bias": self.bias - weight @ self.mean}

    @torch.no_grad()
    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Become a plain linear layer.

        Raises:
            InputError: if it has another number of features or classes.
        """
        what = f"a head for {self.in_features} features and {self.out_features} classes"
        copy_into({"weight": self.weight, "bias": self.bias}, state, what)
        self.mean.zero_()
        self.scale.fill_(1)


@torch.no_grad()
def copy_into(own: dict[str, Tensor], saved: dict[str, Tensor], what: str) -> None:
    """Copy saved tensors into those of the same names.

    Args:
        own: where to copy them.
        saved: what to copy.
        what: what ``own`` belongs to, for the message.

    Raises:
        InputError: if names or shapes differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in own.items()}:
        raise EncoderError(f"what was saved does not fit: {shapes} are not those of {what}")
    for name, tensor in saved.items():
        own[name].copy_(tensor)
