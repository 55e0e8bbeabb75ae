"""Calls of attention are sent elsewhere, those of ``nn.MultiheadAttention`` included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept import InputError
from medept.ept.divert import Divert


def test_only_attention_is_diverted_and_only_inside() -> None:
    calls: list[dict[str, Any]] = []

    def attend(*args: Tensor, **kwargs: Any) -> Tensor:
        calls.append(kwargs)
        return args[2]

    q, k, v = torch.randn(3, 1, 2, 5, 4)
    with Divert(attend):
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, scale=0.5), v)
        F.softmax(q, dim=-1)
    assert calls == [{"scale": 0.5}]
    assert not torch.equal(F.scaled_dot_product_attention(q, k, v), v)


@pytest.mark.parametrize("masked", [False, True])
def test_multihead_attention_diverted_to_plain_attention_is_itself(masked: bool) -> None:
    """Its own projections, heads and mask, for the (T, B, D) that it hands on."""
    module = nn.MultiheadAttention(12, 3).double().eval()
    nn.init.normal_(module.in_proj_bias)
    x = torch.randn(5, 2, 12, dtype=torch.float64)
    mask = torch.zeros(5, 5, dtype=torch.float64).masked_fill(torch.rand(5, 5) < 0.3, -1e9)
    options = {"need_weights": False, "attn_mask": mask if masked else None}
    expected, _ = module(x, x, x, **options)
    plain = F.scaled_dot_product_attention
    with Divert(lambda *args, **kwargs: plain(*args, **kwargs)):
        found, weights = module(x, x, x, **options)
    torch.testing.assert_close(found, expected)
    assert weights is None


def test_multihead_attention_with_what_prompts_cannot_serve_is_refused() -> None:
    module, x = nn.MultiheadAttention(12, 3), torch.randn(5, 2, 12)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    for options in ({"need_weights": True}, {"need_weights": False, "key_padding_mask": padding}):
        with (
            Divert(F.scaled_dot_product_attention),
            pytest.raises(InputError, match="only without key padding"),
        ):
            module(x, x, x, **options)
