"""EPT through Hugging Face peft: made, trained, saved, loaded, switched off and unloaded."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_models import IMAGE, Attends, Patches, traces
from torch import nn

from medept import EmbeddedPromptConfig, InputError, attach

peft = pytest.importorskip("peft")
from medept.ept import peft as bridge  # noqa: E402


def test_same_as_attach_and_only_prompts_train(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    twin = copy.deepcopy(tiny_vit)
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=6, layers="2-3", init="zeros"))
    attach(twin, EmbeddedPromptConfig(length=6, layers="2-3", init="zeros"))
    torch.testing.assert_close(model(pixels), twin(pixels))
    trainable = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    assert sorted(trainable.values()) == [(17, 6), (17, 6)]


@pytest.mark.parametrize("way", ["concat", "keys"])
def test_saved_and_loaded(tiny_vit: nn.Module, tmp_path: Path, way: str) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    twin, plain = copy.deepcopy(tiny_vit), tiny_vit(pixels)
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4, init="kaiming", way=way))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = model(pixels)
    assert not torch.allclose(before, plain)
    (before - plain).square().mean().backward()
    optimizer.step()
    expected = model(pixels)
    assert not torch.allclose(expected, before)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 5_000
    loaded = peft.PeftModel.from_pretrained(twin, tmp_path)
    torch.testing.assert_close(loaded(pixels), expected)


def test_switched_off_and_unloaded(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    plain, keys = tiny_vit(pixels), list(tiny_vit.state_dict())
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4, init="kaiming"))
    with model.disable_adapter():
        assert torch.equal(model(pixels), plain)
    with pytest.raises(InputError, match="cannot become a part of the weights"):
        model.merge_and_unload()
    restored = model.unload()
    assert torch.equal(restored(pixels), plain)
    assert list(restored.state_dict()) == keys


def test_a_head_of_transformers_is_trained_saved_and_left_behind(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                                    intermediate_size=96, image_size=32, patch_size=8)  # fmt: skip
    made = transformers.ViTForImageClassification(config).eval()
    twin, pixels = copy.deepcopy(made), torch.randn(2, 3, 32, 32)
    keys = list(made.state_dict())
    config = bridge.EptConfig(length=3, modules_to_save=["classifier"])
    model = peft.get_peft_model(made, config)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.1
    expected = model(pixels).logits
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(twin, tmp_path)
    torch.testing.assert_close(loaded(pixels).logits, expected)
    restored = model.unload()
    assert list(restored.state_dict()) == keys
    assert isinstance(restored.classifier, nn.Linear)
    assert not torch.allclose(restored(pixels).logits, expected)


def test_two_adapters(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4, init="kaiming"))
    first = model(pixels)
    model.add_adapter("b", bridge.EptConfig(length=4, init="zeros"))
    assert torch.equal(model(pixels), first)
    model.set_adapter("b")
    assert not torch.allclose(model(pixels), first)
    model.set_adapter("default")
    assert torch.equal(model(pixels), first)
    with pytest.raises(InputError, match="give all adapters of a model one size"):
        model.add_adapter("c", bridge.EptConfig(length=4, image_size=64))
    model.base_model.set_adapter(["default", "b"])
    with pytest.raises(InputError, match="one at a time"):
        model(pixels)


@pytest.mark.parametrize(
    ("targets", "prompted"),
    [
        (["blocks.1.attn"], {1}),
        (["attn"], {0, 1, 2}),
        (["0.attn", "blocks.2.attn"], {0, 2}),
        (r".*\.[12]\.attn", {1, 2}),
    ],
    ids=str,
)
def test_target_modules_are_respected(
    tiny_vit: nn.Module, targets: list[str] | str, prompted: set[int], tmp_path: Path
) -> None:
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    config = bridge.EptConfig(length=3, init="zeros", target_modules=targets)
    model = peft.get_peft_model(tiny_vit, config)
    held = {i for i, b in enumerate(tiny_vit.blocks) if isinstance(b.attn, bridge.EptLayer)}
    assert held == prompted
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(twin, tmp_path)
    assert torch.equal(loaded(pixels), model(pixels))


def test_target_modules_that_are_no_attentions_are_refused(tiny_vit: nn.Module) -> None:
    with pytest.raises(InputError, match=r"none of them is an attention.*blocks\.2\.attn"):
        peft.get_peft_model(tiny_vit, bridge.EptConfig(target_modules=["mlp.fc1"]))


def test_loaded_with_low_cpu_mem_usage(tiny_vit: nn.Module, tmp_path: Path) -> None:
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4, init="kaiming"))
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(twin, tmp_path, low_cpu_mem_usage=True)
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert torch.equal(loaded(pixels), model(pixels))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_prompts_is_that_of_pefts_own_adapters(
    tiny_vit: nn.Module, autocast: bool, dtype: torch.dtype
) -> None:
    lora = peft.LoraConfig(target_modules=["qkv"])
    found = []
    for config in (bridge.EptConfig(length=4), lora):
        model = peft.get_peft_model(
            copy.deepcopy(tiny_vit).to(dtype), config, autocast_adapter_dtype=autocast
        )
        found.append({p.dtype for p in model.parameters() if p.requires_grad})
    assert found[0] == found[1]


def test_another_image_size_and_a_second_get_peft_model(tiny_vit: nn.Module) -> None:
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(1, 3, 24, 48)
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4, init="kaiming"))
    torch.manual_seed(0)
    attach(twin, EmbeddedPromptConfig(length=4, init="kaiming"))
    torch.testing.assert_close(model(pixels), twin(pixels))
    with pytest.raises(InputError, match="add_adapter"):
        peft.get_peft_model(tiny_vit, bridge.EptConfig(length=4))


@pytest.mark.parametrize("second", [False, True])
def test_prompts_without_effect_are_refused_and_the_model_is_left_as_it_was(second: bool) -> None:
    made = Patches(Attends(), Attends(read=False)).eval()
    kept, pixels = made.place.requires_grad, torch.randn(1, 3, IMAGE, IMAGE)
    plain, twin = made(pixels), copy.deepcopy(made)
    model = made
    if second:
        model = peft.get_peft_model(made, bridge.EptConfig(length=3, layers="1", image_size=IMAGE))
        plain = model(pixels)
    config = bridge.EptConfig(length=3, image_size=IMAGE)
    add = partial(model.add_adapter, "b") if second else partial(peft.get_peft_model, made)
    with pytest.raises(InputError, match=r"blocks\.1.* would change nothing"):
        add(config)
    assert torch.equal(model(pixels), plain)
    if second:
        assert list(model.peft_config) == ["default"]
        model.unload()
    assert traces(made)[:4] == traces(twin)[:4]
    assert second or made.place.requires_grad == kept


def config(**options: Any) -> bridge.EptConfig:
    return bridge.EptConfig(length=4, init="kaiming", **options)


def prompts_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "ept_prompts" in name}


@pytest.mark.parametrize("excluded", [["blocks.1.attn"], r".*\.1\.attn"], ids=str)
def test_excluded_modules_have_no_prompt(tiny_vit: nn.Module, excluded: list[str] | str) -> None:
    model = peft.get_peft_model(tiny_vit, config(exclude_modules=excluded))
    assert [name.split(".")[3] for name in prompts_of(model)] == ["0", "2"]


def test_what_prompts_cannot_do_is_refused_in_words(tiny_vit: nn.Module) -> None:
    """peft itself would ignore the names, and run the whole batch with one adapter."""
    pixels = torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, config())
    model.add_adapter("b", config())
    before = model(pixels)
    with pytest.raises(InputError, match="several adapters cannot act in one batch"):
        model(pixels, adapter_names=["default", "b"])
    with pytest.raises(InputError, match="cannot be added up"):
        model.add_weighted_adapter(["default", "b"], [0.5, 0.5], "c")
    with pytest.raises(InputError, match="cannot become a part of the weights"):
        model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(model(pixels), before)


def test_adapters_are_deleted(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, config())
    first = model(pixels)
    model.add_adapter("b", config())
    model.set_adapter("b")
    second = model(pixels)
    model.set_adapter("default")
    model.delete_adapter("b")
    assert torch.equal(model(pixels), first)
    assert not [name for name in model.state_dict() if ".b." in name]
    model.add_adapter("b", config())
    model.delete_adapter("default")  # the one in use: the other takes its place
    assert model.active_adapters == ["b"]
    assert not torch.equal(model(pixels), first)
    assert not torch.equal(model(pixels), second)


def test_the_adapter_in_use_alone_is_trained(tiny_vit: nn.Module) -> None:
    pixels, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
    model = peft.get_peft_model(tiny_vit, config())
    model.add_adapter("b", config())
    model.set_adapter("b")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(pixels)[:, :2], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".b.prompt" in name}


def test_the_state_dict_of_an_adapter_is_pefts(tiny_vit: nn.Module) -> None:
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, config())
    state = peft.get_peft_model_state_dict(model)
    assert set(state) == {f"base_model.model.blocks.{i}.attn.ept_prompts.prompt" for i in range(3)}
    other = peft.get_peft_model(twin, config())
    assert not torch.equal(other(pixels), model(pixels))
    assert not peft.set_peft_model_state_dict(other, state).unexpected_keys
    assert torch.equal(other(pixels), model(pixels))


@pytest.mark.parametrize("trainable", [False, True])
def test_loaded_to_be_used_or_trained_on(
    tiny_vit: nn.Module, tmp_path: Path, trainable: bool
) -> None:
    twin, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    model = peft.get_peft_model(tiny_vit, config())
    model.add_adapter("b", config())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "b" / "adapter_model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(twin, tmp_path, is_trainable=trainable)
    assert {p.requires_grad for p in prompts_of(loaded).values()} == {trainable}
    loaded.load_adapter(tmp_path / "b", "b")
    for name in ("b", "default"):
        for each in (model, loaded):
            each.set_adapter(name)
        assert torch.equal(loaded(pixels), model(pixels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision(tiny_vit: nn.Module, dtype: torch.dtype) -> None:
    whole, pixels = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    expected = peft.get_peft_model(whole, config())(pixels)
    torch.manual_seed(0)
    found = peft.get_peft_model(tiny_vit.to(dtype), config())(pixels.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_with_checkpointing(reentrant: bool) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = transformers.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                                   intermediate_size=96, image_size=32, patch_size=8)  # fmt: skip
    base, pixels = transformers.ViTModel(sizes), torch.randn(2, 3, 32, 32)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = peft.get_peft_model(copy.deepcopy(base), config()).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(pixels).last_hidden_state.square().sum().backward()
        found.append([p.grad for p in prompts_of(model).values()])
    assert all(gradient.any() for gradient in found[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_a_model_of_its_own(tiny_vit: nn.Module, way: Callable[..., Any]) -> None:
    pixels, wide = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 24, 48)
    plain = tiny_vit(pixels)
    tiny_vit.blocks[0].attn.fused_attn = False
    model = peft.get_peft_model(tiny_vit, config())
    expected = model(pixels), model(wide)
    other = way(model)
    torch.testing.assert_close((other(pixels), other(wide)), expected)
    unloaded = other.unload()
    assert not unloaded.blocks[0].attn.fused_attn
    assert not unloaded.patch_embed.proj._forward_hooks
    torch.testing.assert_close(unloaded(pixels), plain)
    torch.testing.assert_close((model(pixels), model(wide)), expected)
