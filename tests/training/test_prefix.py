"""What lies below the first change is computed once: the same features and training as without."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from small_encoders import LIBRARIES, PREPROCESSING, make_encoder
from small_fits import train_once
from torch.utils.flop_counter import FlopCounterMode

from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import adapt, trained_of
from medept.training import plan
from medept.training.device import make_accelerator
from medept.training.prefix import Prefix, find_prefix

UPPER = [
    ("partial", {}),
    ("partial", {"k": 2}),
    ("ept", {"layers": "3"}),
    ("ept", {"layers": "2-3"}),
    ("ept", {}),
    ("ept", {"collapsed": True, "per_head": True}),
    ("ept", {"layers": "2-3", "way": "multiply_concat"}),
    ("ept", {"layers": "2-3", "way": "keys"}),
    ("prefix", {"layers": "2-3"}),
    ("vpt", {"layers": "2-3", "length": 3}),
    ("vpt", {"layers": "2", "length": 3}),
    ("vp", {"layers": "3"}),
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("first", [1, 2])
def test_resuming_from_stored_tokens_gives_the_features(library: str, first: int) -> None:
    encoder, pixels = make_encoder(library), torch.randn(4, 3, 32, 32)
    expected = encoder(pixels)
    prefix = Prefix(encoder, first)
    activations = prefix.encode(pixels)
    with prefix.resumed():
        torch.testing.assert_close(
            encoder(prefix.feed(activations)), expected, rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(encoder(pixels), expected)


@pytest.mark.parametrize(
    ("method", "settings", "first"),
    [("partial", {}, 2), ("vpt", {"layers": "2-3"}, 1), ("ept", {"layers": "2-3"}, 1),
     ("ept", {}, 0)],
)  # fmt: skip
def test_what_is_cached_is_not_computed_again(method: str, settings: dict, first: int) -> None:
    """By PyTorch's count of operations, module by module."""
    model = adapt(make_encoder("timm"), method, 3, settings)
    prefix = find_prefix(model)
    assert prefix is not None
    activations = prefix.encode(torch.randn(4, 3, 32, 32))

    def operations(batch: torch.Tensor) -> dict[str, int]:
        with FlopCounterMode(display=False) as counter:
            model.features(batch)
        counted = counter.get_flop_counts().items()
        return {name.partition("model.")[2]: sum(each.values()) for name, each in counted}

    whole = operations(torch.randn(4, 3, 32, 32))
    with prefix.resumed():
        operations(prefix.feed(activations))
        found = operations(prefix.feed(activations))
    cached = ["patch_embed", *(f"blocks.{i}" for i in range(first))]
    cached += [f"blocks.{first}.attn.qkv"] if method == "ept" else []
    assert all(whole[name] > 0 and not found.get(name, 0) for name in cached)
    assert found["blocks.2"] > 0


def test_a_gate_is_computed_in_float32() -> None:
    """Though what it scales is in bfloat16: it is rounded once, at the end."""
    model = adapt(make_encoder("timm"), "ept", 3)
    prompt = model.first_changed_prompt()
    assert prompt is not None
    attended, logsumexp = torch.randn(2, 3, 17, 16).bfloat16(), 3 + torch.randn(2, 3, 17)
    gate = torch.sigmoid(logsumexp.double() - prompt.sink(17).double())
    expected = (attended.double() * gate[..., None]).bfloat16()
    with torch.autocast("cpu"):
        ours = prompt.gate(attended, logsumexp, 17)
    assert ours.dtype == torch.bfloat16
    assert (ours != expected).double().mean() < 0.01


class Bypassed(torch.nn.Module):
    """A ViT with a second path from the pixels to the features."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.beside = make_encoder("timm").model, torch.nn.Conv2d(3, 48, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vit(pixels) + 0.01 * self.beside(pixels).amax((-2, -1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_path_around_the_blocks_is_noticed(precision: str) -> None:
    model = adapt(Encoder(Bypassed(), "bypassed", PREPROCESSING), "ept", 3)
    if precision == "bfloat16":
        model.encoder.cast_to_bfloat16()
    with make_accelerator("cpu", precision).autocast():
        assert find_prefix(model) is None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "settings"), UPPER)
def test_training_is_the_same_with_and_without_the_prefix(
    library: str, method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(plan, "find_prefix", lambda m: found.append(find_prefix(m)) or found[-1])
    ours = train_once(library, method, settings)
    assert found[0] is not None
    monkeypatch.setattr(plan, "find_prefix", lambda model: None)
    whole = train_once(library, method, settings)
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("method", "settings"), UPPER)
def test_a_prefix_is_found_in_bfloat16_too(
    library: str, method: str, settings: dict[str, Any]
) -> None:
    encoder = make_encoder(library)
    encoder.cast_to_bfloat16(except_for=trained_of(encoder, method, settings))
    model = adapt(encoder, method, 3, settings)
    with make_accelerator("cpu", "bfloat16").autocast():
        assert find_prefix(model) is not None


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", {}),
        ("bias", {}),
        ("ept", {"way": "multiply_concat"}),
        ("ept", {"way": "keys"}),
        ("prefix", {}),
        ("vpt", {"length": 3}),
        ("vpt", {"length": 3, "layers": "first"}),
        ("adapter", {}),
        ("lora", {}),
    ],
)
def test_nothing_is_passed_over_that_training_changes(
    method: str, settings: dict[str, Any]
) -> None:
    assert find_prefix(adapt(make_encoder("timm"), method, 3, settings)) is None


def test_stages_of_unlike_sizes_are_resumed_from_too() -> None:
    """Swin merges patches between its stages, outside the blocks that are passed over."""
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=56, window_size=7,
        depths=(1, 1), embed_dim=24, num_heads=(2, 2),
    )  # fmt: skip
    encoder = Encoder(model, "swin", Preprocessing((56, 56), (0.5,) * 3, (0.5,) * 3))
    pixels = torch.randn(2, 3, 56, 56)
    adapted = adapt(encoder, "ept", 3, {"layers": "2"})
    expected = adapted.encoder(pixels)
    prefix = find_prefix(adapted)
    assert prefix is not None
    activations = prefix.encode(pixels)
    with prefix.resumed():
        torch.testing.assert_close(encoder(prefix.feed(activations)), expected)
