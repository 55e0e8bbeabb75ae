"""Finding the self-attentions of a model, and saying clearly where there are none."""

from __future__ import annotations

import pytest
import timm
import torch
from small_encoders import SMALL
from torch import nn

from medept import EmbeddedPromptConfig, InputError, attach
from medept.ept.sites import find_attentions


def test_the_survey_leaves_no_trace(tiny_vit: nn.Module) -> None:
    find_attentions(tiny_vit, 32)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_vit.modules())


def test_swin_is_prompted_per_window_position() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).eval()
    handle = attach(model, EmbeddedPromptConfig(length=4))
    assert [(s.heads, s.tokens, s.grid) for s in handle.sites[:3]] == [
        (3, 49, (7, 7)), (3, 49, (7, 7)), (6, 49, (7, 7)),
    ]  # fmt: skip
    assert len(handle.sites) == 12
    with handle.recording():
        model(torch.randn(1, 3, 224, 224))
    assert handle.gates()[0].shape == (64, 3, 49)  # 8 x 8 windows
    handle.detach()
    assert not any(block.attn.fused_attn for block in model.layers[0].blocks)


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "cait_xxs24_224"])
def test_an_attention_of_another_kind_gets_a_clear_error(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    with pytest.raises(InputError, match="Supported are timm: ViT"):
        attach(model)


def test_what_takes_no_image_gets_a_clear_error() -> None:
    transformers = pytest.importorskip("transformers")
    parts = {"text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                             "intermediate_size": 32}, "vision_config": SMALL}  # fmt: skip
    whole = transformers.CLIPModel(transformers.CLIPConfig(**parts))
    for model, size in ((whole, 224), (nn.Linear(4, 4), 8), (nn.Identity(), 8)):
        with pytest.raises(InputError, match="Supported are timm: ViT"):
            attach(model, image_size=size)
    assert attach(whole.vision_model).sites


def test_eager_transformers_models_are_switched_and_switched_back() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**SMALL, attn_implementation="eager")
    model = transformers.ViTModel(config).eval()
    assert model.config._attn_implementation == "eager"
    handle = attach(model)
    assert len(handle.prompts) == 2
    handle.detach()
    assert model.config._attn_implementation == "eager"


def test_a_model_that_masks_patches_at_random_is_refused() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL))
    with pytest.raises(InputError, match="draws random numbers in evaluation mode"):
        attach(model)
