"""Prompts in the encoders of timm, transformers and open_clip: real architectures, random weights.

The reference replaces ``scaled_dot_product_attention`` itself by equation 5 written out, for the
whole model, so that it shares nothing with how medept finds and diverts attentions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from small_encoders import SMALL
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, InputError, attach

DYNAMIC = {"dynamic_img_size": True}


TIMM = {
    "vit_tiny_patch16_224": DYNAMIC,
    "deit_tiny_distilled_patch16_224": DYNAMIC,
    "deit3_small_patch16_224": DYNAMIC,
    "vit_small_patch14_reg4_dinov2": DYNAMIC | {"img_size": 224},
    "vit_small_patch16_dinov3": DYNAMIC,
    "eva02_tiny_patch14_224": DYNAMIC,
    "beit_base_patch16_224": {},
    "vit_base_patch16_siglip_224": DYNAMIC,
    "vit_base_patch16_clip_224": DYNAMIC,
    "vit_relpos_small_patch16_224": {},
    "swin_tiny_patch4_window7_224": {"depths": (2,), "num_heads": (3,)},
}


TRANSFORMERS = {
    "ViT": {},
    "Dinov2": {},
    "Dinov2WithRegisters": {"num_register_tokens": 4},
    "DINOv3ViT": {"num_register_tokens": 4},
    "CLIPVision": {},
    "SiglipVision": {},
}


def build(family: str, size: int | None = None) -> tuple[nn.Module, int]:
    """A model of two layers that calls SDPA, and its image size; layer scales are made one.

    Args:
        size: pixels, of those that take images of one size only.
    """
    model, size = construct(family, size)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    for parameter in model.parameters():
        if parameter.ndim == 1 and 0 < parameter.abs().max() < 1e-2:
            nn.init.ones_(parameter)
    return model.eval(), size


def construct(family: str, asked: int | None) -> tuple[nn.Module, int]:
    library, name = family.split(":")
    if library == "timm":
        depth = {} if "depths" in TIMM[name] else {"depth": 2}
        sized = {"img_size": asked} if asked else {}
        model = timm.create_model(name, num_classes=0, **depth, **TIMM[name], **sized)
        return model, 224 if "img_size" in TIMM[name] else model.pretrained_cfg["input_size"][1]
    if library == "transformers":
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{name}Config")(**SMALL, **TRANSFORMERS[name])
        return getattr(transformers, f"{name}Model")(config), 224
    open_clip = pytest.importorskip("open_clip")
    tower = open_clip.model.VisionTransformer(
        image_size=asked or 224, patch_size=16, width=48, layers=2, heads=4, mlp_ratio=2.0,
        output_dim=32,
    )  # fmt: skip
    return tower, asked or 224  # an even number of heads, which PyTorch has a fast path for


FAMILIES = [
    *(f"timm:{name}" for name in TIMM),
    *(f"transformers:{name}" for name in TRANSFORMERS),
    "open_clip:VisionTransformer",
]


def features(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.last_hidden_state  # type: ignore[attr-defined]


def attention_by_formula(prompts: list[Tensor]) -> Callable[..., Tensor]:
    """A stand-in for scaled_dot_product_attention that prompts the first self-attentions."""
    left = list(prompts)

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            logits = logits + attn_mask
        if q.shape[-2] == 1 or not left:
            return logits.softmax(-1) @ v
        prompt = left.pop(0).expand(*logits.shape[:2], -1, -1)
        weights = torch.cat([logits, prompt], dim=-1).softmax(-1)
        return weights[..., : logits.shape[-1]] @ v

    return attend


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_formula(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = build(family)
    pixels = torch.randn(1, 3, size, size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = features(model(pixels)).detach()

    handle = attach(model, EmbeddedPromptConfig(length=3, init="kaiming"))
    prompts = [p.prompt.detach().clone().requires_grad_() for p in handle.prompts.values()]
    assert len(prompts) == 2
    output = features(model(pixels))
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    gradients = [p.grad for p in handle.parameters()]
    handle.detach()
    torch.testing.assert_close(features(model(pixels)), plain, rtol=0, atol=0)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention_by_formula(prompts))
        expected = features(model(pixels))
    (expected * weights).sum().backward()
    assert (expected - plain).abs().max() > 1e-4
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for ours, reference in zip(gradients, prompts, strict=True):
        torch.testing.assert_close(ours, reference.grad, rtol=1e-3, atol=1e-5)


def attention_with_more_keys(keys: list[Tensor]) -> Callable[..., Tensor]:
    """A stand-in for scaled_dot_product_attention: the first have more keys, of value zero."""
    left, attend = list(keys), F.scaled_dot_product_attention

    def attend_to_more(q, k, v, attn_mask=None, *args, **options):
        if q.shape[-2] > 1 and left:
            more = left.pop(0).expand(len(k), -1, -1, -1)
            k, v = torch.cat([k, more], -2), torch.cat([v, torch.zeros_like(more)], -2)
            attn_mask = None if attn_mask is None else F.pad(attn_mask, (0, more.shape[-2]))
        return attend(q, k, v, attn_mask, *args, **options)

    return attend_to_more


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_with_keys_are_more_keys(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the queries that enter the dot product (normed, rotated), its scale and its mask."""
    model, size = build(family)
    handle = attach(model, EmbeddedPromptConfig(length=2, way="keys"))
    keys = [p.detach().clone().requires_grad_() for p in handle.parameters()]
    pixels = torch.randn(1, 3, size, size)
    output = features(model(pixels))
    weights = torch.randn_like(output)
    got = torch.autograd.grad((output * weights).sum(), list(handle.parameters()))
    handle.detach()
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_with_more_keys(keys))
    expected = features(model(pixels))
    want = torch.autograd.grad((expected * weights).sum(), keys)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for ours, reference in zip(got, want, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gradient_mode_gives_the_same(family: str) -> None:
    model, size = build(family)
    pixels = torch.randn(1, 3, size, size)
    attach(model, EmbeddedPromptConfig(length=3, init="uniform"))
    expected = features(model(pixels)).detach()
    with torch.inference_mode():
        torch.testing.assert_close(features(model(pixels)), expected, rtol=1e-5, atol=1e-5)


ELSEWHERE = [  # those that take images of another size than they were made for
    *(f"timm:{name}" for name, options in TIMM.items() if "dynamic_img_size" in options),
    *(f"transformers:{name}" for name in TRANSFORMERS),
]


@pytest.mark.parametrize("family", ELSEWHERE)
def test_prompts_made_at_one_resolution_serve_another(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, size = build(family)
    asked = family.endswith((":ViT", "CLIPVision", "SiglipVision"))
    options = {"interpolate_pos_encoding": True} if asked else {}
    handle = attach(model, EmbeddedPromptConfig(length=3, init="kaiming"))
    site = handle.sites[0]
    assert handle.prompts[0].prompt.shape[0] == site.prefix + site.grid[0] ** 2
    side = site.grid[0] + 2
    pixels = torch.randn(1, 3, *[side * size // site.grid[0]] * 2)
    output = features(model(pixels, **options)).detach()
    prompts = [p.sink(site.prefix + side**2)[:, None] for p in handle.prompts.values()]
    handle.detach()
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_by_formula(prompts))
    torch.testing.assert_close(output, features(model(pixels, **options)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ELSEWHERE)))
def test_prompts_are_taken_to_a_model_of_another_size(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are, where attention is within windows; else resized with the grid, and merged."""
    first = attach(build(family)[0], EmbeddedPromptConfig(length=3, init="kaiming"))
    model, _ = build(family, 112)
    pixels = torch.randn(1, 3, 112, 112)
    handle = attach(model, EmbeddedPromptConfig(length=3), image_size=112)
    handle.load_state_dict(first.state_dict())
    output = features(model(pixels)).detach()
    tokens = [site.tokens for site in handle.sites]
    prompts = [p.sink(t)[:, None] for p, t in zip(first.prompts.values(), tokens, strict=True)]
    assert (tokens[0] < first.sites[0].tokens) == ("swin" not in family)
    handle.detach()
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention_by_formula(prompts))
    torch.testing.assert_close(output, features(model(pixels)), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_choice_of_attention_is_refused_in_words() -> None:
    """transformers' own ValueError, about another implementation, says nothing of prompts."""
    transformers = pytest.importorskip("transformers")
    sizes = transformers.GitVisionConfig(hidden_size=32, intermediate_size=32, image_size=32,
                                         num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    model = transformers.GitVisionModel(sizes)
    before = model.config._attn_implementation
    with pytest.raises(InputError, match="1 with its own softmax"):
        attach(model)
    assert model.config._attn_implementation == before
