"""A deeper head on frozen features (``mlp-k`` of Jia et al., ECCV 2022, and of Zu et al.)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medept.methods.base import AdaptedEncoder, MethodSettings
from medept.methods.heads import LinearHead, copy_into


class DeepHead(nn.Sequential):
    """k linear layers with ReLU between them: features (B, D) -> D -> ... -> logits (B, C).

    It is a :class:`~medept.methods.heads.Head`. Hidden layers start as in Jia et al. (Kaiming
    normal, fan out), the last one as in every head. It learns at the recipe's own rate, as
    ``linear`` does: Jia et al. search ten rates of SGD on a validation set, which a few shots do
    not leave.
    """

    def __init__(self, width: int, classes: int, k: int) -> None:
        super().__init__(LinearHead(width, width if k > 1 else classes))
        for _ in range(k - 2):
            self.extend([nn.ReLU(), nn.Linear(width, width)])
        for hidden in (m for m in self if isinstance(m, nn.Linear) and k > 1):
            nn.init.kaiming_normal_(hidden.weight, mode="fan_out")
        if k > 1:
            self.extend([nn.ReLU(), LinearHead(width, classes)])

    @property
    def first(self) -> LinearHead:
        """The layer that reads the features."""
        return self[0]  # type: ignore[return-value]

    def standardise(self, features: Tensor) -> None:
        """Take the mean and standard deviation of features (n, D)."""
        self.first.standardise(features)

    def folded(self) -> dict[str, Tensor]:
        """Weights and biases, with the statistics folded into those of the first layer."""
        first = {f"0.{name}": tensor for name, tensor in self.first.folded().items()}
        return {name: p.detach() for name, p in self.named_parameters()} | first

    @torch.no_grad()
    def load_folded(self, state: dict[str, Tensor]) -> None:
        """Become the head that :meth:`folded` saved.

        Raises:
            InputError: if it has another width, depth or number of classes.
        """
        copy_into(dict(self.named_parameters()), state, f"a head of {len(self) // 2 + 1} layers")
        self.first.mean.zero_()
        self.first.scale.fill_(1)


class MLP(AdaptedEncoder):
    """Trains (k - 1) (D^2 + D) numbers and the head; the encoder stays as it is.

    Jia et al. say "a multilayer perceptron with k layers, instead of a linear, as classification
    head", which is what this does. Their code has k hidden layers and one more, batch norm and
    dropout, more than a few images can train.
    """

    class Settings(MethodSettings):
        """How deep the head is."""

        k: int = Field(default=3, ge=1, le=32)
        """How many linear layers, including the last one."""

    name = "mlp"
    summary = "k linear layers on frozen features"
    rates: ClassVar[tuple[str, ...]] = ("lr",)
    alters_features = False
    settings: Settings

    def make_head(self, width: int, classes: int) -> DeepHead:
        return DeepHead(width, classes, self.settings.k)
