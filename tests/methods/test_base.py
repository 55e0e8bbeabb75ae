"""Every method: what is trained, what is kept, and that nothing else changes."""

from __future__ import annotations

import pytest
import timm
import torch
from adapting import TRAINED, disturb, transformers_encoder
from torch import nn

from medept import InputError
from medept.encoders.encoder import Encoder
from medept.encoders.preprocessing import Preprocessing
from medept.methods import METHODS, adapt


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("multilabel", [False, True])
def test_training_changes_what_is_trainable_and_nothing_else(
    encoder: Encoder, name: str, multilabel: bool
) -> None:
    model = adapt(encoder, name, 4)
    trainable = {id(p) for group in model.parameter_groups().values() for p in group}
    frozen = {n: t.clone() for n, t in model.named_parameters() if id(t) not in trainable}
    with torch.no_grad():  # away from zero, where half of LoRA's gradients vanish
        for parameter in (p for p in model.parameters() if id(p) in trainable):
            parameter += 0.01 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    assert {id(p) for p in model.parameters() if p.requires_grad} == trainable
    logits = model(torch.randn(3, 3, 32, 32))
    assert logits.shape == (3, 4)
    if multilabel:
        target = torch.tensor([[0, 1, 1, 0]] * 3).float()
        nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
    else:
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 3])).backward()
    for n, p in model.named_parameters():
        has_gradient = p.grad is not None and bool(p.grad.abs().sum() > 0)
        assert has_gradient == (id(p) in trainable), n
    optimizer.step()
    for n, p in model.named_parameters():
        if n in frozen:
            assert torch.equal(p, frozen[n]), n


@pytest.mark.parametrize("name", METHODS)
def test_removing_a_method_gives_the_encoder_back(encoder: Encoder, name: str) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    before, keys = encoder(pixels), list(encoder.state_dict())
    adapt(encoder, name, 3).remove()
    assert torch.equal(encoder(pixels), before)
    assert list(encoder.state_dict()) == keys


KEPT = [
    *((name, {}) for name in TRAINED),
    ("ept", {"layers": "2-3", "per_head": True}),
    ("ept", {"collapsed": True}),
    ("ept", {"way": "multiply_concat"}),
    ("ept", {"way": "add"}),
    ("ept", {"way": "multiply"}),
    ("ept", {"way": "keys", "length": 2, "layers": "2-3"}),
    ("prefix", {"length": 2, "layers": "2-3"}),
    ("vpt", {"layers": "first"}),
    ("vpt", {"layers": "2-3"}),
    ("vpt", {"layers": [1, 3], "frozen": True}),
    ("vpt-ept", {"layers": "2-3", "length": 2}),
    ("vp", {"layers": 2}),
    ("partial", {"k": 2}),
]


@pytest.mark.parametrize(("name", "settings"), KEPT)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_what_is_kept_is_enough(encoder: Encoder, library: str, name: str, settings: dict) -> None:
    encoder = encoder if library == "timm" else transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    model = adapt(encoder, name, 3, settings)
    disturb(model)
    model.head.standardise(torch.randn(10, 48) * 3 + 1)
    expected, state = model(pixels), {k: t.clone() for k, t in model.trained_state().items()}
    model.remove()
    again = adapt(encoder, name, 3, settings)
    again.load_trained_state(state)
    torch.testing.assert_close(again(pixels), expected, rtol=1e-4, atol=1e-5)
    kept = sum(t.numel() for t in state.values())
    frozen = sum(p.numel() for p in getattr(again, "prompts", [])) if settings.get("frozen") else 0
    if name != "ept":  # whose prompts are kept merged
        assert kept == again.trainable_count() + frozen


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_a_transformers_encoder(name: str) -> None:
    encoder = transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    before, keys = encoder(pixels), list(encoder.state_dict())
    model = adapt(encoder, name, 3)
    disturb(model)
    model(pixels).square().sum().backward()
    trainable = {id(p) for group in model.parameter_groups().values() for p in group}
    for n, p in model.named_parameters():
        assert (p.grad is not None and bool(p.grad.abs().sum() > 0)) == (id(p) in trainable), n
    model.remove()
    torch.testing.assert_close(encoder(pixels), before)
    assert list(encoder.state_dict()) == keys


@pytest.mark.parametrize(
    "name", ["lora", "dora", "ia3", "adapter", "bias", "norm", "partial", "full"]
)
def test_what_starts_as_the_identity_is_the_identity(encoder: Encoder, name: str) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    before = encoder(pixels)
    model = adapt(encoder, name, 3)
    torch.testing.assert_close(model.encoder(pixels), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_twin_has_the_same_memory_and_may_be_adapted(
    encoder: Encoder, library: str, name: str
) -> None:
    encoder = encoder if library == "timm" else transformers_encoder()
    pixels = torch.randn(2, 3, 32, 32)
    before, twin = encoder(pixels), encoder.copy_with_shared_weights()
    places = [p.data_ptr() for p in encoder.parameters()]
    assert [p.data_ptr() for p in twin.parameters()] == places
    assert twin.identity() == encoder.identity()
    model = adapt(twin, name, 3)
    disturb(model)
    assert model.trains_encoder != torch.equal(twin(pixels), before)
    assert torch.equal(encoder(pixels), before)
    assert all(p.requires_grad for p in encoder.parameters()), "as it came"
    model.remove()
    assert [p.data_ptr() for p in twin.parameters()] == places
    torch.testing.assert_close(twin(pixels), before)


@pytest.mark.parametrize("name", ["ept", "vpt", "vp"])
def test_frozen_prompts_train_the_head_alone(encoder: Encoder, name: str) -> None:
    model = adapt(encoder, name, 3, {"frozen": True})
    assert model.trainable_count() == 48 * 3 + 3
    assert not model.trains_encoder
    prompts = {k: t for k, t in model.trained_state().items() if k.startswith("prompt")}
    assert prompts  # and are kept: they are drawn, and act
    plain = adapt(encoder, "linear", 3).encoder(torch.ones(1, 3, 32, 32))
    model.remove()
    assert not torch.allclose(plain, encoder(torch.ones(1, 3, 32, 32)))


@pytest.mark.parametrize(("size", "layers", "tokens", "width"), [
    ("vit_base_patch16_224", 12, 197, 768), ("vit_large_patch16_224", 24, 197, 1024),
])  # fmt: skip
def test_trainable_parameters_at_the_size_of_the_paper(
    size: str, layers: int, tokens: int, width: int
) -> None:
    """The real architectures, without memory for their weights."""
    with torch.device("meta"):
        check_trainable_parameters(size, layers, tokens, width)


def check_trainable_parameters(size: str, layers: int, tokens: int, width: int) -> None:
    backbone = timm.create_model(size, num_classes=0)
    real = Encoder(backbone, size, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    real.__dict__ |= {"width": width, "fingerprint": "of nothing"}
    head = width * 19 + 19
    linear = adapt(real, "linear", 19)
    assert linear.trainable_count() == head
    block = 12 * width**2 + 13 * width  # qkv, projection, MLP of ratio 4, two norms
    own = sum(p.numel() for p in backbone.parameters())
    biases = layers * (3 + 1 + 4 + 1 + 2) * width + 2 * width  # and patch embedding, final norm
    table = (
        ("vpt", {"length": 10}, layers * 10 * width),
        ("vpt", {"length": 100, "layers": "first"}, 100 * width),
        ("vpt", {"length": 100, "layers": "9-12"}, 4 * 100 * width),
        ("vpt-ept", {"length": 5}, layers * (5 * width + tokens + 5)),
        ("vp", {}, layers * tokens * width),
        ("prefix", {"length": 4}, layers * 2 * 4 * width),
        ("lora", {"rank": 1}, layers * 2 * 2 * width),
        ("lora", {"rank": 64}, layers * 2 * 2 * width * 64),
        ("dora", {"rank": 8}, layers * (2 * 2 * width * 8 + 2 * width)),
        ("ia3", {}, layers * (width + width + 4 * width)),
        ("adapter", {"reduction": 8}, layers * (2 * width * width // 8 + width // 8 + width)),
        ("adapter", {"reduction": 64}, layers * (2 * width * width // 64 + width // 64 + width)),
        ("bias", {}, biases),
        ("norm", {}, (2 * layers + 1) * 2 * width),
        ("partial", {"k": 1}, block),
        ("partial", {"k": 2}, 2 * block),
        ("mlp", {"k": 2}, width**2 + width),
        ("mlp", {"k": 3}, 2 * (width**2 + width)),
        ("full", {}, own),
    )
    assert {name for name, *_ in table} == {*TRAINED} - {"linear", "ept"}  # which have their own
    for name, changes, count in table:
        model = adapt(real, name, 19, changes)
        assert model.trainable_count() == head + count, (name, changes)
        model.remove()
    for settings, prompts in (
        ({"length": 100}, layers * tokens * 100),
        ({"length": 100, "layers": "first"}, tokens * 100),
        ({"length": 20}, layers * tokens * 20),
        ({"length": 100, "collapsed": True}, layers * tokens),
        ({"way": "keys", "length": 4}, layers * 4 * width),
    ):
        ept = adapt(real, "ept", 19, settings)
        assert ept.trainable_count() == head + prompts
        kept = ept.trained_state()
        merged = sum(t.numel() for name, t in kept.items() if name.startswith("prompt."))
        if settings.get("way") == "keys":
            assert merged == prompts
        else:
            assert merged == (tokens if settings.get("layers") == "first" else layers * tokens)
            if size == "vit_base_patch16_224":
                assert merged * 4 < 16_000  # bytes without the head
        ept.remove()


def test_a_method_that_fails_to_go_in_leaves_the_encoder_as_it_was(encoder: Encoder) -> None:
    """Though it had put something in already."""
    pixels = torch.randn(2, 3, 32, 32)
    before = encoder(pixels)

    class Failing(METHODS["adapter"]):  # type: ignore[misc]
        def insert(self) -> None:
            super().insert()
            disturb(self)
            assert not torch.equal(encoder(pixels), before)
            raise InputError("no")

    with pytest.raises(InputError, match="^no$"):
        Failing(encoder, 3, Failing.Settings())
    assert torch.equal(encoder(pixels), before)
