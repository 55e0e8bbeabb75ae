"""Prompts in a real encoder: against the formula, in and out, merged, resized, recorded."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from helpers import ROOT
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, InputError, attach
from medept.ept import kernels
from medept.ept.attention import WAYS
from medept.ept.prompts import EmbeddedPrompt
from medept.ept.sites import find_attentions

GUIDE = ROOT / "docs" / "own-loop.md"
ANY_BATCH = ({0: torch.export.Dim("batch")},)


def weights_by_formula(logits: Tensor, prompt: Tensor, way: str) -> Tensor:
    """Figure 5 of the paper written out, for a prompt (T, L) or (H, T, L)."""
    prompt = prompt.expand(*logits.shape[:2], -1, -1)
    if way in ("add", "multiply"):
        return (logits + prompt if way == "add" else logits * prompt).softmax(-1)
    if way == "multiply_concat":
        prompt = prompt * (logits.amax(-1) - logits.amin(-1))[..., None]
    return torch.cat([prompt, logits], dim=-1).softmax(-1)[..., prompt.shape[-1] :]


def forward_by_formula(
    model: nn.Module, pixels: Tensor, prompts: dict[int, Tensor], way: str = "concat"
) -> Tensor:
    """A timm ViT's features with the prompted attention written out."""
    x = model._pos_embed(model.patch_embed(pixels))
    for i, block in enumerate(model.blocks):
        attention = block.attn
        normed = block.norm1(x)
        batch, tokens, width = normed.shape
        qkv = attention.qkv(normed).reshape(batch, tokens, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if i in prompts:
            weights = weights_by_formula(logits, prompts[i], way)
        else:
            weights = logits.softmax(-1)
        x = x + attention.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        x = x + block.mlp(block.norm2(x))
    return model.norm(x)[:, 0]


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
        used.clear()
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="zeros", kernel=asked))
        with torch.no_grad():
            found.append(tiny_vit(pixels))
        handle.detach()
    assert used == 3 * [kernel]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["normal", "uniform", "zeros", "kaiming"])
def test_initial_values(tiny_vit: nn.Module, init: str) -> None:
    """The paper's normal 0.02; uniform within 0.08, or Kaiming's sqrt(6 / L)."""
    length = 400
    bound = {"normal": None, "uniform": 0.08, "zeros": 0.0, "kaiming": (6 / length) ** 0.5}[init]
    for way in ("concat", "multiply"):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init, way=way))
        values = torch.cat([p.flatten() for p in handle.parameters()]).detach()
        values -= float(way == "multiply")
        handle.detach()
        if bound is None:
            assert values.std() == pytest.approx(0.02, rel=0.1)
        elif way == "concat":
            assert 0.98 * bound <= values.abs().max() <= bound
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        else:
            assert abs(values.mean()) < 0.1
    torch.manual_seed(0)
    full = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init))
    sums = [p.detach().logsumexp(-1) for p in full.parameters()]
    full.detach()
    torch.manual_seed(0)
    collapsed = attach(tiny_vit, EmbeddedPromptConfig(length=length, init=init, collapsed=True))
    for ours, expected in zip(collapsed.parameters(), sums, strict=True):
        torch.testing.assert_close(ours.detach(), expected)


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


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("size", [32, 48])
def test_merging_keeps_the_output_and_leaves_one_number_per_token(
    tiny_vit: nn.Module, per_head: bool, size: int
) -> None:
    pixels = torch.randn(2, 3, size, size)
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=50, init="kaiming", per_head=per_head))
    before = tiny_vit(pixels)
    merged = handle.merge()
    assert all(s.shape == ((3, 17) if per_head else (17,)) for s in merged.values())
    torch.testing.assert_close(tiny_vit(pixels), before, rtol=1e-5, atol=1e-6)


def test_identity_start_changes_little_whatever_the_length(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    plain = tiny_vit(pixels)
    change = {}
    for init in ("identity", "zeros"):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=100, init=init))
        with handle.recording():
            change[init] = (tiny_vit(pixels) - plain).norm().item()
        mean = torch.stack([g.mean() for g in handle.gates().values()]).mean()
        assert (mean > 0.95) if init == "identity" else (mean < 0.3)
        handle.detach()
    assert change["identity"] < change["zeros"] / 5


def test_gates_are_the_share_of_the_softmax_that_the_tokens_keep(tiny_vit: nn.Module) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, init="zeros"))
    with pytest.raises(InputError, match="recording"):
        handle.gates()
    seen = []
    hook = tiny_vit.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    with handle.recording():
        tiny_vit(torch.randn(2, 3, 32, 32))
    hook.remove()
    q, k, _ = seen[0].reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
    total = (q @ k.transpose(-1, -2) / 4).exp().sum(-1)
    torch.testing.assert_close(handle.gates()[0], total / (total + 4), rtol=1e-5, atol=1e-6)


def test_prompts_follow_another_resolution_with_the_class_token_kept_apart(
    tiny_vit: nn.Module,
) -> None:
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=6, init="zeros"))
    with torch.no_grad():
        for prompt in handle.prompts.values():
            prompt.prompt[0] = -30.0  # no gate on the class token, gate of 6 prompts elsewhere
    with handle.recording():
        tiny_vit(torch.randn(1, 3, 64, 64))
    gates = handle.gates()[0]
    assert gates.shape == (1, 3, 65)
    assert gates[..., 0].min() > 0.999
    assert gates[..., 1:].max() < 0.95


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "add"])
@pytest.mark.parametrize("grid", [(6, 6), (4, 4), (3, 6)])
def test_resizing_is_that_of_position_embeddings(way: str, grid: tuple[int, int]) -> None:
    """timm's ``resample_abs_pos_embed``: of s, of the prompt's rows, of its rows and columns."""
    old = (4, 4) if grid[0] == grid[1] else (2, 4)
    config = EmbeddedPromptConfig(length=5, way=way, init="kaiming")
    prompt = EmbeddedPrompt(config, heads=2, prefix=1, grid=old)
    tokens = 1 + grid[0] * grid[1]

    def resampled(rows: Tensor) -> Tensor:
        return resample_abs_pos_embed(rows[None], list(grid), list(old), num_prefix_tokens=1)[0]

    values = prompt.prompt
    if way == "concat":
        torch.testing.assert_close(
            prompt.sink(tokens), resampled(values.exp().sum(-1).log()[:, None])[:, 0]
        )
    elif way == "multiply_concat":
        torch.testing.assert_close(prompt.sized(tokens), resampled(values))
    else:
        torch.testing.assert_close(prompt.sized(tokens), resampled(resampled(values).mT).mT)


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


def test_the_survey_leaves_no_trace(tiny_vit: nn.Module) -> None:
    find_attentions(tiny_vit, 32)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_vit.modules())


def test_compiles_in_one_graph_with_its_gradients(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="uniform"))
    compiled = torch.compile(tiny_vit, fullgraph=True, backend="aot_eager")
    outputs = [model(pixels) for model in (compiled, tiny_vit)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    ours, expected = (torch.autograd.grad(x.square().sum(), handle.parameters()) for x in outputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_merged_model_compiles_in_one_graph_and_exports_for_any_batch(
    tiny_vit: nn.Module,
) -> None:
    pixels = torch.randn(5, 3, 32, 32)
    attach(tiny_vit, EmbeddedPromptConfig(length=5, init="uniform")).merge()
    expected = tiny_vit(pixels)
    compiled = torch.compile(tiny_vit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), expected, rtol=1e-5, atol=1e-6)
    exported = torch.export.export(tiny_vit, (pixels[:2],), dynamic_shapes=ANY_BATCH).module()
    torch.testing.assert_close(exported(pixels), expected, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("form", ["full", "merged", "collapsed"])
def test_prompts_of_another_grid_are_loaded(tiny_vit: nn.Module, per_head: bool, form: str) -> None:
    """Into a model that is attached at 48 pixels, from one at 32: as they act there."""
    config = EmbeddedPromptConfig(
        length=4, init="kaiming", per_head=per_head, collapsed=form == "collapsed"
    )
    pixels, twin = torch.randn(2, 3, 48, 48), copy.deepcopy(tiny_vit)
    handle = attach(tiny_vit, config)
    if form == "merged":
        handle.merge()
    other = attach(twin, config, image_size=48)
    other.load_state_dict(handle.state_dict())
    torch.testing.assert_close(twin(pixels), tiny_vit(pixels), rtol=1e-5, atol=1e-6)
    before = other.state_dict()
    for wrong in ([3, 12], [3, 13], [6, 17]):  # no grid, one of other proportions, other heads
        if not per_head and wrong[-1] == 17:
            continue
        values = dict.fromkeys(before, torch.zeros(wrong if per_head else wrong[1:]))
        with pytest.raises(InputError, match="grid|do not fit"):
            other.load_state_dict(values)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_refused_prompt_changes_nothing(tiny_vit: nn.Module) -> None:
    """Of other heads: shared into one a head, and the other way."""
    for per_head, shape in ((True, (2, 17)), (False, (3, 17)), (False, (3, 17, 4))):
        handle = attach(tiny_vit, EmbeddedPromptConfig(length=4, per_head=per_head))
        before = {name: tensor.clone() for name, tensor in handle.state_dict().items()}
        with pytest.raises(InputError):
            handle.load_state_dict(dict.fromkeys(before, torch.zeros(shape)))
        after = handle.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        handle.detach()


@pytest.mark.slow
def test_a_merged_model_runs_in_onnxruntime(tiny_vit: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pixels = torch.randn(5, 3, 32, 32)
    attach(tiny_vit, EmbeddedPromptConfig(length=30, init="kaiming")).merge()
    expected = tiny_vit(pixels).detach()
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        tiny_vit, (pixels[:2],), file, dynamo=True, verbose=False, dynamic_shapes=ANY_BATCH
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


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
