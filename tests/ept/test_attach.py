"""Prompts in a real encoder: against the formula, in and out again, several adapters, saved."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from equation_5 import (
    forward_by_formula,
)
from helpers import ROOT
from safetensors.torch import load_file, save_file
from torch import nn

from medept import EmbeddedPromptConfig, InputError, attach
from medept.ept import kernels
from medept.ept.attention import WAYS

GUIDE = ROOT / "docs" / "own-loop.md"


@pytest.mark.parametrize(
    "options",
    [
        *({"layers": layers} for layers in ("all", "first", "2-3", (1, 3))),
        *({"way": way, "per_head": each} for way in WAYS for each in (False, True)),
        *({"collapsed": True, "per_head": each} for each in (False, True)),
    ],
    ids=str,
)
def test_outputs_and_gradients_equal_the_formula(tiny_vit: nn.Module, options: dict) -> None:
    model = tiny_vit.double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    config = EmbeddedPromptConfig(**{"length": 5, "init": "uniform"} | options)
    handle = attach(model, config)
    for prompt in handle.prompts.values():
        prompt.double()
    output = model(pixels)
    copies = {i: p.prompt.detach().clone().requires_grad_() for i, p in handle.prompts.items()}
    written = {i: p[..., None] if config.collapsed else p for i, p in copies.items()}
    expected = forward_by_formula(model, pixels, written, config.way)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for i, prompt in handle.prompts.items():
        assert prompt.prompt.grad is not None
        torch.testing.assert_close(prompt.prompt.grad, copies[i].grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", ["formula", "fused", "extra_key"])
def test_the_kernel_that_is_asked_for_runs(
    tiny_vit: nn.Module, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for name in ("formula", "fused", "extra_key"):
        run = getattr(kernels, name)
        spy = lambda *a, _name=name, _run=run: used.append(_name) or _run(*a)  # noqa: E731
        monkeypatch.setattr(kernels, name, spy)
    pixels, found = torch.randn(2, 3, 32, 32), []
    for asked in ("auto", kernel):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="zeros", kernel=asked))
        used.clear()
        with torch.no_grad():
            found.append(tiny_vit(pixels))
        handle.detach()
    assert used == 3 * [kernel]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_one_parameter_of_tokens_by_length_in_each_layer_and_nothing_else_trains(
    tiny_vit: nn.Module,
) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=7))
    assert [tuple(p.shape) for p in handle.parameters()] == [(17, 7)] * 3
    trainable = [p for p in tiny_vit.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in handle.parameters()}


def test_real_size_of_the_paper() -> None:
    model = timm.create_model("vit_base_patch16_224", num_classes=0, depth=2).eval()
    handle = attach(model, EmbeddedPromptConfig(length=100))
    assert [tuple(p.shape) for p in handle.parameters()] == [(197, 100)] * 2
    site = handle.sites[0]
    assert (site.heads, site.tokens, site.prefix, site.grid) == (12, 197, 1, (14, 14))


def test_detach_restores_the_model_exactly(tiny_vit: nn.Module) -> None:
    before = copy.deepcopy(tiny_vit)
    classes = [type(module) for module in tiny_vit.modules()]
    flags = [p.requires_grad for p in tiny_vit.parameters()]
    pixels = torch.randn(2, 3, 32, 32)
    handle = attach(tiny_vit, EmbeddedPromptConfig(init="uniform"))
    assert not torch.equal(tiny_vit(pixels), before(pixels))
    handle.detach()
    assert [type(module) for module in tiny_vit.modules()] == classes
    assert [p.requires_grad for p in tiny_vit.parameters()] == flags
    assert tiny_vit.state_dict().keys() == before.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tiny_vit.state_dict()[name], tensor), name
    assert torch.equal(tiny_vit(pixels), before(pixels))


def test_clear_errors(tiny_vit: nn.Module) -> None:
    with pytest.raises(InputError, match="layers 1 to 3"):
        attach(tiny_vit, EmbeddedPromptConfig(layers="2-9"))
    assert not hasattr(tiny_vit.blocks[1].attn, "embedded_prompt")
    attach(tiny_vit)
    with pytest.raises(InputError, match="already"):
        attach(tiny_vit)
    with pytest.raises(InputError, match="'vit_tiny'.*the model itself"):
        attach("vit_tiny")  # type: ignore[arg-type]
    convolutional = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(InputError, match="open_clip"):
        attach(convolutional, image_size=64)


def test_several_adapters_are_held_and_switched(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    plain = tiny_vit(pixels)
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="kaiming"))
    first = tiny_vit(pixels)
    handle.add("other site", EmbeddedPromptConfig(length=9, init="zeros", layers="2"))
    handle.use("other site")
    second = tiny_vit(pixels)
    assert [tuple(p.shape) for p in handle.parameters()] == [(17, 9)]
    held = handle.adapters["default"][0].prompt.data_ptr()
    handle.use("default")
    assert torch.equal(tiny_vit(pixels), first)
    assert handle.prompts[0].prompt.data_ptr() == held
    assert not torch.equal(first, second)
    for name in ("missing", "default"):
        with pytest.raises(InputError, match="held"):
            handle.use(name) if name == "missing" else handle.add(name, EmbeddedPromptConfig())
    handle.detach()
    assert torch.equal(tiny_vit(pixels), plain)


def test_an_adapter_follows_a_model_that_was_moved(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit)
    handle.add("other", EmbeddedPromptConfig(length=2))
    tiny_vit.to("meta")
    handle.use("other")
    assert {p.device.type for p in tiny_vit.parameters()} == {"meta"}


def test_a_state_goes_into_another_copy_full_or_merged(tiny_vit: nn.Module) -> None:
    twin = copy.deepcopy(tiny_vit)
    pixels = torch.randn(2, 3, 32, 32)
    config = EmbeddedPromptConfig(length=9, init="kaiming", layers="2-3")
    handle, other = attach(tiny_vit, config), attach(twin, config)
    other.load_state_dict({name: t.clone() for name, t in handle.state_dict().items()})
    assert torch.equal(tiny_vit(pixels), twin(pixels))
    handle.merge()
    other.load_state_dict(handle.state_dict())
    torch.testing.assert_close(tiny_vit(pixels), twin(pixels), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="layer"):
        other.load_state_dict({"layer.0": torch.zeros(17)})


def test_prompts_travel_through_safetensors(tiny_vit: nn.Module, tmp_path: Path) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="uniform"))
    handle.merge()
    save_file(handle.state_dict(), tmp_path / "prompts.safetensors")
    before = {k: t.clone() for k, t in handle.state_dict().items()}
    for prompt in handle.parameters():
        prompt.data.zero_()
    handle.load_state_dict(load_file(tmp_path / "prompts.safetensors"))
    assert all(torch.equal(t, before[k]) for k, t in handle.state_dict().items())


def test_a_prompted_model_can_be_copied_and_pickled(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, init="kaiming"))
    pixels = torch.randn(2, 3, 32, 32)
    expected = tiny_vit(pixels)
    for twin in (copy.deepcopy(tiny_vit), pickle.loads(pickle.dumps(tiny_vit))):
        assert torch.equal(twin(pixels), expected)
        with torch.no_grad():
            twin.blocks[0].attn.embedded_prompt.prompt += 1
        assert not torch.equal(twin(pixels), expected)
    assert torch.equal(tiny_vit(pixels), expected)
    assert "3 of 3 attentions prompted, 204 numbers; adapters: default" in repr(handle)


def test_the_guide_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    create = timm.create_model
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **o: create(name, **o))
    names = {"loader": [(torch.randn(2, 3, 224, 224), torch.tensor([0, 1]))]}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.S | re.M):
        exec(compile(block, GUIDE.name, "exec"), names)
    assert {i: gate.shape for i, gate in names["gates"].items()} == dict.fromkeys(
        range(8, 12), (2, 3, 197)
    )
    assert (tmp_path / "mine.onnx").exists()
    assert (tmp_path / "ept-adapter" / "adapter_model.safetensors").exists()
    assert {k: v.shape for k, v in load_file("mine.safetensors").items()} == {
        **{f"layer.{i}": (197,) for i in range(8, 12)}, "head.weight": (2, 192), "head.bias": (2,),
    }  # fmt: skip


def test_a_model_is_pickled_with_its_handle(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    plain, kept = tiny_vit(pixels), [p.requires_grad for p in tiny_vit.parameters()]
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, init="kaiming"))
    expected = tiny_vit(pixels)
    model, other = pickle.loads(pickle.dumps((tiny_vit, handle)))
    assert torch.equal(model(pixels), expected)
    other.detach()
    assert torch.equal(model(pixels), plain)
    assert [p.requires_grad for p in model.parameters()] == kept
    assert torch.equal(tiny_vit(pixels), expected)
