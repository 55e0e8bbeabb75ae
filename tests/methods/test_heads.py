"""A head is saved as a plain linear layer."""

from __future__ import annotations

import pytest
import torch

from medept import InputError
from medept.methods.heads import LinearHead


def test_a_folded_head_is_the_same_head() -> None:
    head, features = LinearHead(5, 3), torch.randn(20, 5) * 4 + 2
    head.standardise(features)
    plain = LinearHead(5, 3)
    plain.load_folded(head.folded())
    torch.testing.assert_close(plain(features), head(features))
    standardised = (features - head.mean) / head.scale
    assert standardised.mean(0).abs().max() < 1e-5
    with pytest.raises(InputError, match="not those of a head for 4 features"):
        LinearHead(4, 3).load_folded(head.folded())
