"""Gated attention pooling (Ilse, Tomczak and Welling, ICML 2018): learn which images matter.

With h_i the features of image i, its weight is a softmax over the images of its case of

    w . (tanh(V h_i) * sigmoid(U h_i))

and the features of the case are the weighted mean. There are few cases to learn from, and so
little is learnt: features are standardised and projected to their first principal components, the
network starts at equal weights (which is ``mean``), and weight decay pulls it back there. It is
trained together with a linear head, which is then dropped: the method fits its own to the features
of the cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept.methods.pooling import Pool

COMPONENTS = 16
"""Principal components of the images' features that the weights are computed from, at most."""

HIDDEN = 8
"""Width of the gated layer."""

STEPS, RATE, DECAY = 300, 0.02, 0.1
"""Steps of AdamW on all cases at once, its rate, and its weight decay."""


class AttentionPool(Pool):
    """The weighted mean of the images' features, with weights that are learnt.

    Attributes:
        value: (L, D) V above, with projection and standardisation folded in.
        value_bias: (L,).
        gate: (L, D) U above, likewise.
        gate_bias: (L,).
        weight: (L,) w above.
    """

    name = "attention"
    learns = True
    value: Tensor
    value_bias: Tensor
    gate: Tensor
    gate_bias: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("value", "value_bias", "gate", "gate_bias", "weight"):
            self.register_buffer(name, torch.zeros(0))

    def pool(self, parts: Iterable[Tensor]) -> Tensor:
        features = torch.cat(list(parts))
        weights = self.weights(features.mean(dim=1)).to(features)
        return torch.einsum("n,nvd->vd", weights, features)

    def weights(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            value = torch.tanh(F.linear(features, self.value, self.value_bias))
            gate = torch.sigmoid(F.linear(features, self.gate, self.gate_bias))
            return torch.softmax((value * gate) @ self.weight, dim=0)

    def fit(self, features: np.ndarray, sizes: np.ndarray, targets: np.ndarray, seed: int) -> None:
        space = _Space.of(features, sizes)
        device = self.value.device
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            torch.default_generator.manual_seed(seed)
            network = _Network(space.projection.shape[1], _classes(targets))
            _train(network, torch.as_tensor(space.project(features)), sizes, targets)
        layers = {"value": network.value, "gate": network.gate}
        for name, layer in layers.items():
            weight = layer.weight.detach().double().numpy() @ space.projection.T / space.scale
            bias = layer.bias.detach().double().numpy() - weight @ space.mean
            setattr(self, name, torch.as_tensor(weight, dtype=torch.float32, device=device))
            setattr(self, f"{name}_bias", torch.as_tensor(bias, dtype=torch.float32, device=device))
        self.weight = network.weight.detach().to(device)


@dataclass(frozen=True)
class _Space:
    """What weights are computed from: standardised features on their principal components.

    Attributes:
        mean: (D,) over images, every case weighing the same.
        scale: (D,) standard deviation, likewise.
        projection: (D, K), so that the components have variance 1 on average.
    """

    mean: np.ndarray
    scale: np.ndarray
    projection: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, sizes: np.ndarray) -> _Space:
        """The space of the images (N, D) of cases."""
        share = np.repeat(1 / (len(sizes) * sizes), sizes)
        features = features.astype(np.float64)
        mean = share @ features
        scale = np.sqrt(share @ (features - mean) ** 2) + 1e-3
        standard = (features - mean) / scale * np.sqrt(share)[:, None]
        _, spread, axes = np.linalg.svd(standard, full_matrices=False)
        count = max(1, min(COMPONENTS, int((spread > 1e-6).sum())))
        size = np.sqrt((spread[:count] ** 2).mean()) + 1e-12
        return cls(mean, scale, axes[:count].T / size)

    def project(self, features: np.ndarray) -> np.ndarray:
        """Components (N, K), float32."""
        return (((features - self.mean) / self.scale) @ self.projection).astype(np.float32)


class _Network(nn.Module):
    """Gated attention and a linear head, on K components."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, HIDDEN), nn.Linear(width, HIDDEN)
        self.weight = nn.Parameter(torch.zeros(HIDDEN))
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """Components (n, K, width) of at most K images of n cases -> logits (n, C)."""
        gated = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        weights = torch.softmax((gated @ self.weight).masked_fill(~real, -torch.inf), dim=1)
        return self.head((weights[..., None] * features).sum(dim=1))


def _train(network: _Network, features: Tensor, sizes: np.ndarray, targets: np.ndarray) -> None:
    """Train on all cases at once; every class weighs the same."""
    parts = features.split([int(size) for size in sizes])
    padded = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    real = torch.arange(padded.shape[1]) < torch.as_tensor(sizes)[:, None]
    truth = torch.as_tensor(targets)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        _loss(network(padded, real), truth).backward()
        optimizer.step()


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, targets.float())
    counts = torch.bincount(targets, minlength=logits.shape[1])
    return F.cross_entropy(logits, targets, weight=1 / counts.clamp(min=1).float())


def _classes(targets: np.ndarray) -> int:
    return targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
