"""Methods: what is trained, what is kept, and that nothing else changes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from medept import InputError
from medept.encoders import Encoder, Preprocessing
from medept.methods import METHODS, adapt
from medept.methods.base import Head

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def encoder(tiny_vit: nn.Module) -> Encoder:
    return Encoder(tiny_vit, "tiny", PREPROCESSING)


@pytest.mark.parametrize("name", METHODS)
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [("linear", {}), ("ept", {}), ("ept", {"layers": "2-3", "per_head": True}),
     ("ept", {"collapsed": True}), ("ept", {"way": "multiply_concat"}), ("ept", {"way": "add"}),
     ("ept", {"way": "multiply"})],
)  # fmt: skip
def test_what_is_kept_is_enough(encoder: Encoder, name: str, settings: dict) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    model = adapt(encoder, name, 3, settings)
    model.head.standardise(torch.randn(10, 48) * 3 + 1)
    expected, state = model(pixels), {k: t.clone() for k, t in model.trained_state().items()}
    model.remove()
    again = adapt(encoder, name, 3, settings)
    again.load_trained_state(state)
    torch.testing.assert_close(again(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "layers", "tokens", "width"), [
    ("vit_base_patch16_224", 12, 197, 768), ("vit_large_patch16_224", 24, 197, 1024),
])  # fmt: skip
def test_trainable_parameters_at_the_size_of_the_paper(
    model: str, layers: int, tokens: int, width: int
) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(model, num_classes=0)
    backbone = backbone.to_empty(device="cpu")
    real = Encoder(backbone, model, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3))
    real.__dict__["width"] = width
    head = width * 19 + 19
    linear = adapt(real, "linear", 19)
    assert linear.trainable_count() == head
    for settings, prompts in (
        ({"length": 100}, layers * tokens * 100),
        ({"length": 100, "layers": "first"}, tokens * 100),
        ({"length": 100, "collapsed": True}, layers * tokens),
    ):
        ept = adapt(real, "ept", 19, settings)
        assert ept.trainable_count() == head + prompts
        kept = ept.trained_state()
        merged = sum(t.numel() for name, t in kept.items() if name.startswith("prompt."))
        assert merged == (tokens if settings.get("layers") == "first" else layers * tokens)
        if model == "vit_base_patch16_224":
            assert merged * 4 < 16_000  # bytes without the head
        ept.remove()


def test_a_frozen_prompt_is_kept_but_not_trained(encoder: Encoder) -> None:
    model = adapt(encoder, "ept", 3, {"frozen": True})
    assert model.parameter_groups()["encoder"] == []
    assert not model.trains_encoder
    assert any(name.startswith("prompt.") for name in model.trained_state())


def test_a_folded_head_is_the_same_head() -> None:
    head, features = Head(5, 3), torch.randn(20, 5) * 4 + 2
    head.standardise(features)
    plain = Head(5, 3)
    plain.load_folded(head.folded())
    torch.testing.assert_close(plain(features), head(features))
    standardised = (features - head.mean) / head.scale
    assert standardised.mean(0).abs().max() < 1e-5
    with pytest.raises(InputError, match="does not fit 4 features"):
        Head(4, 3).load_folded(head.folded())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [("nothing", {}, "use one of linear, ept"), ("linear", {"length": 3}, "length.*none"),
     ("ept", {"length": 0}, "at least 1"), ("ept", {"way": "divide"}, "concat"),
     ("ept", {"layers": "2-9"}, "layers 1 to 3"), ("ept", {"layers": "x"}, "cannot be read"),
     ("ept", {"collapsed": True, "way": "add"}, "only the way 'concat'")],
)  # fmt: skip
def test_clear_errors(encoder: Encoder, name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt(encoder, name, 3, settings)
