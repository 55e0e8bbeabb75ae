"""Prefix tuning against attention with the keys and values put beside the tokens' own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from adapting import disturb
from small_encoders import PREPROCESSING, make_model
from torch import Tensor, nn

from medept.encoders.encoder import Encoder
from medept.ept.sites import AttentionSite
from medept.errors import InputError
from medept.methods import adapt
from medept.methods.prefix import KeysAndValues, PrefixTuning, _divert

MODELS = [
    "vit_tiny_patch16_224",
    "vit_relpos_small_patch16_224",  # adds a learnt bias to the logits
    "transformers:ViT",
    "open_clip",
]


def attention_with(prefixes: list[tuple[Tensor, Tensor] | None]) -> Callable[..., Tensor]:
    """A stand-in for scaled_dot_product_attention: in turn, with these keys and values or none."""
    left = list(prefixes)

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        logits = logits if attn_mask is None else logits + attn_mask
        if (prefix := left.pop(0)) is not None:
            keys, values = prefix
            more = q @ keys.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
            logits = torch.cat([logits, more], -1)
            v = torch.cat([v, values.expand(len(v), -1, -1, -1)], -2)
        return logits.softmax(-1) @ v

    return attend


def features(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.last_hidden_state  # type: ignore[attr-defined]


def prefixes(model: PrefixTuning) -> list[tuple[Tensor, Tensor] | None]:
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(model.encoder.sites)
    for layer, prefix in zip(model.layers, model.prefixes, strict=True):
        found[layer] = prefix.keys, prefix.values
    return found


@pytest.mark.parametrize("layers", ["all", "2"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_attention_with_more_keys_and_values(
    name: str, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(make_model(name), name, PREPROCESSING)
    model = adapt(encoder, "prefix", 3, {"length": 3, "layers": layers}).double()
    disturb(model)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    parameters = list(model.prefixes.parameters())
    found = features(encoder.model(pixels))
    weights = torch.randn_like(found)
    got = torch.autograd.grad((found * weights).sum(), parameters)
    every = prefixes(model)
    model.remove()
    encoder.model.requires_grad_(True)  # else PyTorch's fast path attends by itself
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_with(every))
    expected = features(encoder.model(pixels))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    want = torch.autograd.grad((expected * weights).sum(), parameters)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_starts_where_prompts_with_keys_do(encoder: Encoder) -> None:
    pixels, found = torch.randn(2, 3, 32, 32), []
    for method, settings in (("prefix", {}), ("ept", {"way": "keys", "length": 4})):
        torch.manual_seed(0)
        model = adapt(encoder, method, 3, settings)
        found.append(model.features(pixels).detach())
        model.remove()
    torch.testing.assert_close(*found)


def test_an_attention_that_runs_without_its_prefix_raises() -> None:
    """As prompts do: its formula may be chosen again after the prefix is put in."""
    encoder = Encoder(make_model("transformers:ViT"), "transformers:ViT", PREPROCESSING)
    model = adapt(encoder, "prefix", 3, {"length": 2})
    pixels = torch.randn(2, 3, 32, 32)
    model.features(pixels)
    encoder.model.set_attn_implementation("eager")
    with pytest.raises(InputError, match="ran without its prompt"):
        model.features(pixels)


def test_it_acts_where_a_whole_layer_has_a_fused_path() -> None:
    """``nn.TransformerEncoderLayer`` passes by its attention in evaluation mode."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    tokens, undo = torch.randn(1, 5, 16), ExitStack()
    before = layer(tokens)
    site = AttentionSite("self_attn", layer.self_attn, heads=2, tokens=5, width=8)
    prefix = KeysAndValues(site, 2)
    nn.init.normal_(prefix.values)
    with torch.no_grad(), undo:
        _divert(layer.self_attn, prefix, undo)
        assert not torch.allclose(layer(tokens), before, atol=1e-3)
    torch.testing.assert_close(layer(tokens), before)
