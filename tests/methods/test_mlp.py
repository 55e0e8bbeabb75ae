"""A deeper head on frozen features."""

from __future__ import annotations

import torch
from torch import nn

from medept.encoders.encoder import Encoder
from medept.methods import adapt


def test_mlp_is_linear_layers_on_standardised_features(encoder: Encoder) -> None:
    """Written out in float64; and features are computed once, since none of them change."""
    model, features = adapt(encoder, "mlp-3", 3), torch.randn(20, 48) * 4 + 2
    model.head.standardise(features)
    assert not model.trains_encoder
    x = (features.double() - features.double().mean(0)) / (
        features.double().std(0, correction=0) + 1e-3
    )
    first, second, last = (m for m in model.head if isinstance(m, nn.Linear))
    for layer in (first, second):
        x = (x @ layer.weight.double().T + layer.bias.double()).relu()
    x = x @ last.weight.double().T + last.bias.double()
    torch.testing.assert_close(model.logits(features).double(), x, rtol=1e-4, atol=1e-5)
